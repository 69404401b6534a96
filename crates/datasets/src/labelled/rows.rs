//! The form in which labelled texts are kept: one table, tab-separated, whose first row names the columns.

use std::fmt::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// One of the three splits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Split {
    Train,
    Valid,
    Test,
}

impl Split {
    pub(crate) const ALL: [Self; 3] = [Self::Train, Self::Valid, Self::Test];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }
}

/// One labelled text or pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub split: Split,
    /// Index into the manifest's labels.
    pub label: usize,
    /// What is never cut by the split: a speech, a chapter; empty where each text stands alone.
    pub group: String,
    pub text: String,
    pub text_b: Option<String>,
}

/// Labelled texts with the names of their classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub labels: Vec<String>,
    pub rows: Vec<Row>,
}

impl Table {
    pub(crate) fn to_text(&self) -> String {
        let labels: Vec<&str> = self.labels.iter().map(String::as_str).collect();
        write_rows(&self.rows, &labels)
    }
}

/// The table of `rows`, whose labels have these names. White space in texts becomes single blanks.
pub(crate) fn write_rows(rows: &[Row], labels: &[&str]) -> String {
    let pairs = rows.iter().any(|row| row.text_b.is_some());
    let groups = rows.iter().any(|row| !row.group.is_empty());
    let mut out = String::from("split\tlabel");
    out.push_str(if groups { "\tgroup" } else { "" });
    out.push_str(if pairs {
        "\ttext\ttext_b\n"
    } else {
        "\ttext\n"
    });
    for row in rows {
        let label = labels.get(row.label).unwrap_or(&"");
        write!(out, "{}\t{label}", row.split.name()).expect("a string grows");
        if groups {
            write!(out, "\t{}", one_line(&row.group)).expect("a string grows");
        }
        write!(out, "\t{}", one_line(&row.text)).expect("a string grows");
        if pairs {
            let second = row.text_b.as_deref().unwrap_or_default();
            write!(out, "\t{}", one_line(second)).expect("a string grows");
        }
        out.push('\n');
    }
    out
}

/// A text without tabs and line ends: each run of white space becomes a blank.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Reads a table that [`write_rows`] wrote.
///
/// # Errors
/// Columns that are missing, labels and splits that are unknown, with file and line.
pub(crate) fn read_rows(text: &str, file: &Path, labels: &[String]) -> Result<Vec<Row>> {
    let wrong = |line: usize, message: String| Error::Layout {
        path: format!("{}:{line}", file.display()).into(),
        message,
    };
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    let header: Vec<&str> = lines
        .next()
        .map_or(vec![], |(_, line)| line.split('\t').collect());
    let column = |name: &str| header.iter().position(|column| *column == name);
    let needed = |name: &str| {
        let message = format!("no column is named {name}; there are {}", header.join(", "));
        column(name).ok_or_else(|| wrong(1, message))
    };
    let (split, label, text) = (needed("split")?, needed("label")?, needed("text")?);
    let (group, text_b) = (column("group"), column("text_b"));
    let mut rows = vec![];
    for (number, line) in lines {
        let cells: Vec<&str> = line.split('\t').collect();
        if cells.len() != header.len() {
            let message = format!(
                "{} columns where the first row has {}",
                cells.len(),
                header.len()
            );
            return Err(wrong(number, message));
        }
        let found = Split::ALL.into_iter().find(|s| s.name() == cells[split]);
        let found = found.ok_or_else(|| {
            wrong(
                number,
                format!("the split {:?} is none of train, valid, test", cells[split]),
            )
        })?;
        let class = labels.iter().position(|known| known == cells[label]);
        let class = class.ok_or_else(|| {
            wrong(
                number,
                format!(
                    "the label {:?} is none of {}",
                    cells[label],
                    labels.join(", ")
                ),
            )
        })?;
        rows.push(Row {
            split: found,
            label: class,
            group: group.map_or(String::new(), |i| cells[i].to_owned()),
            text: cells[text].to_owned(),
            text_b: text_b.map(|i| cells[i].to_owned()),
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(split: Split, label: usize, text: &str, text_b: Option<&str>) -> Row {
        Row {
            split,
            label,
            group: "g".into(),
            text: text.into(),
            text_b: text_b.map(Into::into),
        }
    }

    #[test]
    fn tables_come_back() {
        let labels = ["no", "yes"];
        let names = labels.map(String::from);
        for second in [None, Some("b")] {
            let rows = [
                row(Split::Train, 1, "a \"quoted\" text", second),
                row(Split::Test, 0, "ö", second),
            ];
            let text = write_rows(&rows, &labels);
            assert_eq!(read_rows(&text, Path::new("t"), &names).unwrap(), rows);
        }
        let text = write_rows(&[row(Split::Valid, 0, " a\tb\r\nc ", None)], &labels);
        assert!(text.ends_with("valid\tno\tg\ta b c\n"), "{text}");
    }

    #[test]
    fn errors_name_the_line() {
        let labels = ["no".to_string()];
        for (text, part) in [
            ("", "no column is named split"),
            ("split\tlabel\n", "no column is named text"),
            (
                "split\tlabel\ttext\ntrain\tno\n",
                "f:2: 2 columns where the first row has 3",
            ),
            (
                "split\tlabel\ttext\ndev\tno\tx\n",
                "f:2: the split \"dev\" is none of",
            ),
            (
                "split\tlabel\ttext\ntrain\tno\tx\ntrain\tyes\tx\n",
                "f:3: the label \"yes\" is none of no",
            ),
        ] {
            let message = read_rows(text, Path::new("f"), &labels)
                .unwrap_err()
                .to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
