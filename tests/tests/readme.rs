//! Every `cargo xtask` command of the README and the book is one that the program understands.

use burn_formers_tests::root;
use clap::Parser;
use std::fs;
use std::path::{Path, PathBuf};
use xtask::cli::Cli;

/// The Markdown files that show commands.
fn documents() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for folder in ["", "docs/src", "crates"] {
        collect(&root().join(folder), &mut all, !folder.is_empty());
    }
    all
}

fn collect(folder: &Path, all: &mut Vec<PathBuf>, deep: bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && deep {
            collect(&path, all, deep);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            all.push(path);
        }
    }
}

/// The commands in fenced blocks marked `console` or `sh`: lines that begin with `cargo xtask`, after a prompt or without one.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    let mut open: Option<String> = None;
    for line in text.lines() {
        let line = line.trim();
        if let Some(fence) = line.strip_prefix("```") {
            inside = !inside && ["console", "sh", "shell", "bash"].contains(&fence.trim());
            open = None;
            continue;
        }
        let continued = open.take();
        if !inside {
            continue;
        }
        let line = match continued {
            Some(start) => format!("{start} {line}"),
            None => line.strip_prefix("$ ").unwrap_or(line).to_owned(),
        };
        match line.strip_suffix('\\') {
            Some(start) if line.starts_with("cargo xtask") => open = Some(start.trim().to_owned()),
            _ if line.starts_with("cargo xtask") => found.push(line),
            _ => {}
        }
    }
    found
}

/// The words of a command line up to a comment, a pipe or a redirection, as a shell would split them.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#' | '|' | '>' | '<' | ';' | '&') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn every_command_of_the_documents_is_understood() {
    let mut count = 0;
    for path in documents() {
        let text = fs::read_to_string(&path).expect("a document");
        for line in commands(&text) {
            let words = words(&line);
            // `cargo xtask` is one word to the program.
            if let Err(error) = Cli::try_parse_from(&words[1..]) {
                assert!(!error.use_stderr(), "{}: `{line}`: {error}", path.display());
            }
            count += 1;
        }
    }
    let readme = root().join("README.md");
    if readme.is_file() {
        assert!(count > 0, "{} shows no command", readme.display());
    }
}

#[test]
fn commands_are_found_and_split_as_a_shell_does() {
    let text = "cargo xtask no\n```console\n$ cargo xtask train a.json \\\n    --set 'x=1 2' # why\nstep 1\n```\n```json\ncargo xtask no\n```";
    let found = commands(text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        words(&found[0]),
        ["cargo", "xtask", "train", "a.json", "--set", "x=1 2"]
    );
    assert_eq!(words("cargo xtask list | head"), ["cargo", "xtask", "list"]);
    assert_eq!(words("a --prompt \"\""), ["a", "--prompt", ""]);
}
