//! Reading archives that others made, without trusting them.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Component, Path};

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result, io};

/// What an archive may hold at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of one wanted file.
    pub file: u64,
    /// Bytes of everything, unpacked.
    pub total: u64,
    /// Number of entries.
    pub entries: usize,
}

/// A file found in an archive: its path there and its content.
pub(crate) type Found = (String, Vec<u8>);

/// Reads the wanted files of a tar.gz, tar, zip, gz, plain file or folder (told apart by content), in the order of their paths.
/// Links and special files are never followed; paths that lead out of the archive, and sizes over the limits, are refused.
pub(crate) fn read_wanted(
    from: &Path,
    wanted: &dyn Fn(&str) -> bool,
    limits: Limits,
) -> Result<Vec<Found>> {
    let metadata = std::fs::metadata(from).map_err(io("open", from))?;
    let mut found = match metadata.is_dir() {
        true => read_folder(from, wanted, limits)?,
        false => read_file(from, wanted, limits)?,
    };
    found.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some(pair) = found.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(refuse(
            from,
            format!("the entry {:?} occurs twice", pair[0].0),
        ));
    }
    Ok(found)
}

fn refuse(from: &Path, message: impl Into<String>) -> Error {
    Error::Archive {
        path: from.into(),
        message: message.into(),
    }
}

fn read_file(from: &Path, wanted: &dyn Fn(&str) -> bool, limits: Limits) -> Result<Vec<Found>> {
    let open = || {
        File::open(from)
            .map(BufReader::new)
            .map_err(io("open", from))
    };
    let mut magic = [0u8; 4];
    let length = read_up_to(&mut open()?, &mut magic).map_err(io("read", from))?;
    match &magic[..length] {
        [0x1f, 0x8b, ..] => {
            let mut head = vec![0u8; 512];
            let mut decoder = MultiGzDecoder::new(open()?);
            let length =
                read_up_to(&mut decoder, &mut head).map_err(|error| damaged(from, error))?;
            let decoder = MultiGzDecoder::new(open()?);
            match is_tar(&head[..length]) {
                true => read_tar(from, decoder, wanted, limits),
                false => single(from, &stem(from), decoder, wanted, limits),
            }
        }
        [b'P', b'K', 3 | 5, 4 | 6] => read_zip(from, open()?, wanted, limits),
        b"!<ar" => Err(refuse(
            from,
            "is a Debian package: unpack it with `dpkg-deb -x PACKAGE FOLDER` and give the folder",
        )),
        _ => {
            let mut head = vec![0u8; 512];
            let length = read_up_to(&mut open()?, &mut head).map_err(io("read", from))?;
            match is_tar(&head[..length]) {
                true => read_tar(from, open()?, wanted, limits),
                false => single(from, &file_name(from), open()?, wanted, limits),
            }
        }
    }
}

fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

fn file_name(from: &Path) -> String {
    from.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// `enwik8.gz` holds `enwik8`.
fn stem(from: &Path) -> String {
    from.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn read_up_to(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match from.read(&mut buffer[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

fn damaged(from: &Path, error: impl std::fmt::Display) -> Error {
    refuse(
        from,
        format!("the archive is damaged or cut off: {error}; get it again"),
    )
}

fn single(
    from: &Path,
    name: &str,
    reader: impl Read,
    wanted: &dyn Fn(&str) -> bool,
    limits: Limits,
) -> Result<Vec<Found>> {
    match wanted(name) {
        true => Ok(vec![(
            name.to_string(),
            content(from, name, reader, limits.file)?,
        )]),
        false => Ok(Vec::new()),
    }
}

/// A content of at most `limit` bytes, whatever length was declared for it.
fn content(from: &Path, name: &str, reader: impl Read, limit: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    reader
        .take(limit + 1)
        .read_to_end(&mut content)
        .map_err(|error| damaged(from, format!("{name}: {error}")))?;
    match content.len() as u64 > limit {
        true => Err(refuse(
            from,
            format!("the entry {name:?} is larger than the {limit} bytes allowed for it"),
        )),
        false => Ok(content),
    }
}

/// A path that stays inside: relative, without `..`, drives or backslashes.
fn check_name(from: &Path, name: &str) -> Result<()> {
    let inside = !name.is_empty()
        && !name.contains(['\\', '\0'])
        && !name.starts_with('/')
        && !name
            .split('/')
            .next()
            .is_some_and(|first| first.contains(':'))
        && Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    match inside {
        true => Ok(()),
        false => Err(refuse(
            from,
            format!("the entry {name:?} leads out of the archive, so nothing of it is used"),
        )),
    }
}

/// Counts what passes and stops at a limit, so that a small file cannot unpack to an endless one.
struct Counted<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !buffer.is_empty() {
            return Err(io::Error::other("it unpacks to more than is allowed"));
        }
        let most = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.inner.read(&mut buffer[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}

fn read_tar(
    from: &Path,
    reader: impl Read,
    wanted: &dyn Fn(&str) -> bool,
    limits: Limits,
) -> Result<Vec<Found>> {
    let mut archive = tar::Archive::new(Counted {
        inner: reader,
        left: limits.total,
    });
    let mut found = Vec::new();
    let entries = archive.entries().map_err(|error| damaged(from, error))?;
    for (index, entry) in entries.enumerate() {
        if index >= limits.entries {
            return Err(refuse(
                from,
                format!("it has more than {} entries", limits.entries),
            ));
        }
        let entry = entry.map_err(|error| damaged(from, error))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        check_name(from, &name)?;
        match entry.header().entry_type() {
            kind if kind.is_file() => {
                if wanted(&name) {
                    let text = content(from, &name, entry, limits.file)?;
                    found.push((name, text));
                }
            }
            kind if kind.is_dir() || kind.is_pax_global_extensions() => {}
            _ => {
                return Err(refuse(
                    from,
                    format!(
                        "the entry {name:?} is a link or special file, so nothing of it is used"
                    ),
                ));
            }
        }
    }
    Ok(found)
}

fn read_zip(
    from: &Path,
    reader: BufReader<File>,
    wanted: &dyn Fn(&str) -> bool,
    limits: Limits,
) -> Result<Vec<Found>> {
    let mut archive = zip::ZipArchive::new(reader).map_err(|error| damaged(from, error))?;
    if archive.len() > limits.entries {
        return Err(refuse(
            from,
            format!("it has more than {} entries", limits.entries),
        ));
    }
    let mut found = Vec::new();
    let mut left = limits.total;
    for index in 0..archive.len() {
        let entry = archive
            .by_index(index)
            .map_err(|error| damaged(from, error))?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        check_name(from, &name)?;
        if entry.is_file() && wanted(&name) {
            let text = content(from, &name, entry, limits.file.min(left))?;
            left -= text.len() as u64;
            found.push((name, text));
        }
    }
    Ok(found)
}

fn read_folder(from: &Path, wanted: &dyn Fn(&str) -> bool, limits: Limits) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut open = vec![from.to_path_buf()];
    let (mut seen, mut left) = (0, limits.total);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).map_err(io("list", &folder))? {
            seen += 1;
            if seen > limits.entries {
                return Err(refuse(
                    from,
                    format!("it has more than {} entries", limits.entries),
                ));
            }
            let entry = entry.map_err(io("list", &folder))?;
            let kind = entry.file_type().map_err(io("inspect", &entry.path()))?;
            if kind.is_dir() {
                open.push(entry.path());
                continue;
            }
            let path = entry.path();
            let relative = path.strip_prefix(from).unwrap_or(&path);
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            let name = parts.join("/");
            if kind.is_file() && wanted(&name) {
                let file = File::open(&path).map_err(io("open", &path))?;
                let text = content(from, &name, file, limits.file.min(left))?;
                left -= text.len() as u64;
                found.push((name, text));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const SMALL: Limits = Limits {
        file: 100,
        total: 100_000,
        entries: 5,
    };

    /// The same files as folder, tar, tar.gz and zip.
    fn forms(dir: &Path, files: &[(String, usize)]) -> Vec<std::path::PathBuf> {
        let paths = ["folder", "a.tar", "a.tgz", "a.zip"].map(|name| dir.join(name));
        let mut tar = tar::Builder::new(Vec::new());
        let mut zip = zip::ZipWriter::new(File::create(&paths[3]).unwrap());
        std::fs::create_dir(&paths[0]).unwrap();
        for (name, length) in files {
            let content = vec![b'x'; *length];
            std::fs::write(paths[0].join(name), &content).unwrap();
            let mut header = tar::Header::new_ustar();
            header.set_size(*length as u64);
            header.set_cksum();
            tar.append_data(&mut header, name, &*content).unwrap();
            zip.start_file(name, zip::write::SimpleFileOptions::default())
                .unwrap();
            zip.write_all(&content).unwrap();
        }
        let tar = tar.into_inner().unwrap();
        let mut gz = GzEncoder::new(File::create(&paths[2]).unwrap(), Compression::fast());
        gz.write_all(&tar).unwrap();
        gz.finish().unwrap();
        std::fs::write(&paths[1], tar).unwrap();
        zip.finish().unwrap();
        paths.into()
    }

    #[test]
    fn limits_hold_in_every_form() {
        let named = |n: usize, length: usize| {
            (0..n)
                .map(move |i| (format!("{i}.txt"), length))
                .collect::<Vec<_>>()
        };
        for (files, wrong) in [
            (named(3, 100), None),
            (named(3, 101), Some("larger than the 100 bytes")),
            (named(6, 10), Some("more than 5 entries")),
        ] {
            let dir = tempfile::TempDir::new().unwrap();
            for from in forms(dir.path(), &files) {
                let found = read_wanted(&from, &|name| name.ends_with(".txt"), SMALL);
                match (found, wrong) {
                    (Ok(found), None) => {
                        let names: Vec<&str> =
                            found.iter().map(|(name, _)| name.as_str()).collect();
                        assert_eq!(names, ["0.txt", "1.txt", "2.txt"]);
                        assert!(found.iter().all(|(_, text)| text.len() == 100));
                    }
                    (Err(error), Some(wrong)) => {
                        assert!(error.to_string().contains(wrong), "{error}")
                    }
                    (found, _) => panic!("{}: {}", from.display(), found.is_ok()),
                }
            }
        }
    }

    /// Megabytes that nobody asked for, in a file of a few kilobytes.
    #[test]
    fn skipped_entries_count_too() {
        let dir = tempfile::TempDir::new().unwrap();
        let files = [
            ("bomb.bin".to_string(), 3_000_000),
            ("0.txt".to_string(), 10),
        ];
        let tgz = forms(dir.path(), &files).swap_remove(2);
        assert!(std::fs::metadata(&tgz).unwrap().len() < 100_000);
        let error = read_wanted(&tgz, &|name| name.ends_with(".txt"), SMALL).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("unpacks to more than is allowed"),
            "{error}"
        );
    }

    #[test]
    fn single_compressed_files_go_by_their_stem() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("enwik8.gz");
        let mut gz = GzEncoder::new(File::create(&path).unwrap(), Compression::fast());
        gz.write_all(b"content").unwrap();
        gz.finish().unwrap();
        let found = read_wanted(&path, &|name| name == "enwik8", SMALL).unwrap();
        assert_eq!(found, [("enwik8".to_string(), b"content".to_vec())]);
    }
}
