//! Writing a data folder: all of it, or nothing.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result, io};
use crate::manifest::{FileEntry, MANIFEST, Manifest, sha256};

/// One file to write.
pub(crate) struct Item {
    /// Path in the folder, with `/`.
    pub path: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// Writes `data/NAME` with a manifest that lists the files, and replaces a folder of that name if it was written by us. The
/// folder appears complete or not at all.
pub(crate) fn write_folder(
    data: &Path,
    mut manifest: Manifest,
    items: Vec<Item>,
) -> Result<(PathBuf, Manifest)> {
    let name = manifest.name.clone();
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', ':']) {
        return Err(crate::error::value(
            "name",
            format!("\"{name}\""),
            "a plain folder name",
        ));
    }
    let folder = data.join(&name);
    if folder.exists() && !folder.join(MANIFEST).is_file() {
        return Err(Error::Layout {
            path: folder,
            message: "exists and has no manifest.json, so it is not replaced; move it away or choose another data folder".into(),
        });
    }
    let partial = data.join(format!(".{name}.partial"));
    if partial.exists() {
        std::fs::remove_dir_all(&partial).map_err(io("remove", &partial))?;
    }
    let mut whole = Sha256::new();
    manifest.files.clear();
    manifest.bytes = 0;
    for Item { path, content } in &items {
        let target = partial.join(path);
        let parent = target.parent().unwrap_or(&partial);
        std::fs::create_dir_all(parent).map_err(io("create", parent))?;
        std::fs::write(&target, content).map_err(io("write", &target))?;
        whole.update(content);
        manifest.bytes += content.len() as u64;
        manifest.files.push(FileEntry {
            path: path.clone(),
            bytes: content.len() as u64,
            sha256: sha256(content),
        });
    }
    manifest.sha256 = whole
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let file = partial.join(MANIFEST);
    let mut json = serde_json::to_string_pretty(&manifest).map_err(|error| Error::Json {
        file: file.display().to_string(),
        message: error.to_string(),
    })?;
    json.push('\n');
    std::fs::write(&file, json).map_err(io("write", &file))?;
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(io("replace", &folder))?;
    }
    std::fs::rename(&partial, &folder).map_err(io("rename to", &folder))?;
    Ok((folder, manifest))
}
