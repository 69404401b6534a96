//! Downloads from official addresses, resumable and verified.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::Agent;
use ureq::http::{HeaderMap, Response};

use crate::catalogue::{Entry, Origin};
use crate::error::{Error, Result, io, value};
use crate::import::{ImportOptions, import};
use crate::manifest::{Manifest, expect_equal, file_digests};

/// Where to fetch from and what to accept, when it is not what is known here.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// Another address of the same file.
    pub url: Option<String>,
    /// Digests of the file at that address; they replace the known length and digests.
    pub digests: ImportOptions,
    /// How often to connect before giving up; each time the download goes on where it was cut.
    pub attempts: u32,
}

impl Default for FetchOptions {
    fn default() -> Self {
        FetchOptions {
            url: None,
            digests: ImportOptions::default(),
            attempts: 5,
        }
    }
}

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes on disk, those of earlier calls included.
    pub done: u64,
    /// Bytes in all, where known.
    pub total: Option<u64>,
}

/// No data set known here is larger; a server that sends more is not serving one.
const LARGEST: u64 = 64 << 30;

/// Downloads the data set `name` into `data/downloads`, verifies it, and imports it into `data/NAME`. A download that was cut
/// leaves a `.part` file, and the next call goes on from there.
///
/// # Errors
/// [`Error::UnknownName`], [`Error::Value`] for a data set that comes from a package, [`Error::Http`] when the download fails,
/// [`Error::Digest`] with the actual value when the file is not the expected one, and those of [`import`].
pub fn fetch(
    name: &str,
    data: &Path,
    options: &FetchOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<(PathBuf, Manifest)> {
    if crate::embedded::manifest(name).is_some() {
        return Err(value(
            "name",
            format!("\"{name}\""),
            "embedded, so there is nothing to fetch",
        ));
    }
    let entry = Entry::find(name)?;
    let Origin::Web {
        url,
        mirror,
        file,
        bytes,
        md5,
    } = &entry.origin
    else {
        let expected = format!(
            "comes from a package: run `{}`",
            entry.commands().join("`, then `")
        );
        return Err(value("name", format!("\"{name}\""), &expected));
    };
    let folder = data.join("downloads");
    std::fs::create_dir_all(&folder).map_err(io("create", &folder))?;
    let mut download = Download {
        url: options.url.clone().unwrap_or_else(|| url.to_string()),
        target: folder.join(file),
        part: folder.join(format!("{file}.part")),
        note: folder.join(format!("{file}.part.json")),
        // Digests of the user's own say nothing about the length.
        expected: (!options.digests.given()).then_some(*bytes),
        mirror: mirror.filter(|_| options.url.is_none()),
    };
    if !download.target.is_file() {
        download.run(options.attempts.max(1), progress)?;
    }
    let known = match options.digests.given() {
        true => options.digests.clone(),
        false => ImportOptions {
            sha256: None,
            md5: md5.map(str::to_string),
        },
    };
    download.verify(&known)?;
    import(name, &download.target, data, &options.digests)
}

struct Download {
    url: String,
    target: PathBuf,
    part: PathBuf,
    note: PathBuf,
    expected: Option<u64>,
    mirror: Option<&'static str>,
}

/// What is remembered of a partial download, so that two files are never joined.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Note {
    url: String,
    /// `ETag` or `Last-Modified` of the file.
    validator: Option<String>,
}

/// How one connection ended.
enum End {
    Complete,
    /// Worth another attempt.
    Cut(String),
}

impl Download {
    fn run(&mut self, attempts: u32, progress: &mut dyn FnMut(Progress)) -> Result<()> {
        let agent = agent(&self.url);
        let mut message = String::new();
        for _ in 0..attempts {
            match self.connect(&agent, progress)? {
                End::Complete => {
                    std::fs::rename(&self.part, &self.target)
                        .map_err(io("rename to", &self.target))?;
                    // The note has done its work; a leftover would be ignored.
                    let _ = std::fs::remove_file(&self.note);
                    return Ok(());
                }
                End::Cut(why) => message = why,
            }
        }
        Err(self.failed(message))
    }

    fn failed(&self, message: String) -> Error {
        let done = length_of(&self.part);
        let mirror = self
            .mirror
            .map_or(String::new(), |mirror| format!(", or try --url {mirror}"));
        Error::Http {
            url: self.url.clone(),
            message,
            remedy: match done {
                0 => format!("check the network and the address{mirror}"),
                done => format!(
                    "{done} bytes are kept in {}: run the same command again to go on{mirror}",
                    self.part.display()
                ),
            },
        }
    }

    /// One request, from where the `.part` file ends.
    fn connect(&self, agent: &Agent, progress: &mut dyn FnMut(Progress)) -> Result<End> {
        let mut have = length_of(&self.part);
        let note = self.read_note();
        if note.url != self.url {
            have = 0;
        }
        let mut request = agent.get(&self.url);
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
            if let Some(validator) = &note.validator {
                request = request.header("If-Range", validator);
            }
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(error @ (ureq::Error::BadUri(_) | ureq::Error::Http(_))) => {
                return Err(self.failed(error.to_string()));
            }
            Err(error) => return Ok(End::Cut(error.to_string())),
        };
        let headers = response.headers();
        let range = header(headers, "content-range").and_then(parse_range);
        let total = match response.status().as_u16() {
            // The whole file: the server does not know ranges, or the file has changed.
            200 => {
                have = 0;
                header(headers, "content-length").and_then(|length| length.parse().ok())
            }
            206 => match range {
                Some((Some(start), total)) if start == have => total,
                _ => {
                    self.forget()?;
                    return Ok(End::Cut(
                        "the server answered with another range than asked for".into(),
                    ));
                }
            },
            416 => match range {
                Some((None, Some(total))) if total == have => return Ok(End::Complete),
                _ => {
                    self.forget()?;
                    return Ok(End::Cut(
                        "the file at the server is shorter than what is here".into(),
                    ));
                }
            },
            408 | 429 | 500..=599 => {
                return Ok(End::Cut(format!(
                    "the server answered with status {}",
                    response.status()
                )));
            }
            _ => {
                return Err(self.failed(format!(
                    "the server answered with status {}",
                    response.status()
                )));
            }
        };
        if let (Some(expected), Some(total)) = (self.expected, total) {
            let remedy = "the file at this address has changed; give another --url, or --sha256 of the file you trust";
            expect_equal("length", expected, total, &self.url, remedy)?;
        }
        self.receive(response, have, total, progress)
    }

    fn receive(
        &self,
        mut response: Response<ureq::Body>,
        have: u64,
        total: Option<u64>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<End> {
        if have == 0 {
            // Before the first byte, so that a part never lies there under the note of another file.
            self.forget()?;
            let headers = response.headers();
            let strong = header(headers, "etag").filter(|tag| !tag.starts_with("W/"));
            self.write_note(&Note {
                url: self.url.clone(),
                validator: strong
                    .or(header(headers, "last-modified"))
                    .map(str::to_string),
            })?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.part)
            .map_err(io("open", &self.part))?;
        let largest = self.expected.or(total).unwrap_or(LARGEST);
        let mut reader = response.body_mut().as_reader();
        let mut buffer = vec![0u8; 1 << 16];
        let mut done = have;
        progress(Progress { done, total });
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => {
                    return Ok(End::Cut(format!(
                        "the connection was cut after {done} bytes: {error}"
                    )));
                }
            };
            file.write_all(&buffer[..read])
                .map_err(io("write", &self.part))?;
            done += read as u64;
            progress(Progress { done, total });
            if done > largest {
                let message = format!("the server sent more than the {largest} bytes of this file");
                drop(file);
                self.forget()?;
                return Err(self.failed(message));
            }
        }
        file.sync_all().map_err(io("write", &self.part))?;
        match total {
            Some(total) if done < total => Ok(End::Cut(format!(
                "the connection was cut after {done} of {total} bytes"
            ))),
            _ => Ok(End::Complete),
        }
    }

    fn verify(&self, known: &ImportOptions) -> Result<()> {
        let file = self.target.display().to_string();
        let (sha256, md5) = file_digests(&self.target)?;
        let remedy =
            format!("delete it and fetch again, or give --sha256 {sha256} if you trust the file");
        if let Some(expected) = self.expected {
            expect_equal("length", expected, length_of(&self.target), &file, &remedy)?;
        }
        known.check(&file, &sha256, &md5, &remedy)
    }

    fn read_note(&self) -> Note {
        File::open(&self.note)
            .ok()
            .and_then(|file| serde_json::from_reader(file.take(1 << 16)).ok())
            .unwrap_or_default()
    }

    fn write_note(&self, note: &Note) -> Result<()> {
        let json = serde_json::to_string(note).unwrap_or_default();
        std::fs::write(&self.note, json).map_err(io("write", &self.note))
    }

    /// Removes what is there of a partial download.
    fn forget(&self) -> Result<()> {
        for path in [&self.part, &self.note] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn agent(url: &str) -> Agent {
    let host = url.split("://").nth(1).unwrap_or("");
    let local = ["127.0.0.1", "localhost", "[::1]"]
        .iter()
        .any(|name| host.starts_with(name));
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)))
        .user_agent(concat!("burn-formers-datasets/", env!("CARGO_PKG_VERSION")))
        // Ranges count bytes of the file, not of a compressed transfer of it.
        .accept_encoding("identity");
    match local {
        true => config.proxy(None).build().new_agent(),
        false => config.build().new_agent(),
    }
}

fn length_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// `bytes 5-9/10` is `(Some(5), Some(10))`, `bytes */10` is `(None, Some(10))`.
fn parse_range(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split('-').next().and_then(|start| start.parse().ok());
    Some((start, total.parse().ok()))
}
