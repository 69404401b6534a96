//! Tables whose columns have names.

use super::read::at;
use super::{Example, Label, Task};
use crate::error::Result;
use std::path::Path;

/// Rows, the first of which names the columns, each with its line in the file.
pub(super) fn named(
    task: Task,
    mut rows: impl Iterator<Item = (usize, Vec<String>)>,
    file: &Path,
    labelled: bool,
) -> Result<Vec<Example>> {
    let Some((first, header)) = rows.next() else {
        return Ok(vec![]);
    };
    let column = |names: &[&str]| {
        let found = names
            .iter()
            .find_map(|n| header.iter().position(|h| h == n));
        found.ok_or_else(|| {
            let message = format!(
                "no column is named {}; there are {}",
                names.join(" or "),
                header.join(", ")
            );
            at(file, first, message)
        })
    };
    let (a, b) = task.layout().names;
    let (a, b) = (column(a)?, b.map(column).transpose()?);
    let label = if labelled {
        column(&["label"]).ok()
    } else {
        None
    };
    let mut all = vec![];
    for (number, cells) in rows {
        let cell = |i: usize| {
            cells.get(i).cloned().ok_or_else(|| {
                let message = format!(
                    "{} columns where the first row has {}",
                    cells.len(),
                    header.len()
                );
                at(file, number, message)
            })
        };
        all.push(Example {
            text_a: cell(a)?,
            text_b: b.map(cell).transpose()?,
            label: match label {
                Some(i) => task.label(&cell(i)?, file, number)?,
                None => Label::None,
            },
        });
    }
    Ok(all)
}

/// Comma-separated values: cells in double quotes may hold commas, line ends and, doubled, quotes. Each row comes with the
/// line it begins on; empty lines are left out.
pub(crate) fn csv(text: &str) -> Vec<(usize, Vec<String>)> {
    let mut rows = vec![];
    let (mut row, mut cell) = (vec![], String::new());
    let (mut quoted, mut line, mut begin) = (false, 1, 1);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match (c, quoted) {
            ('"', true) if characters.peek() == Some(&'"') => {
                characters.next();
                cell.push('"');
            }
            ('"', true) => quoted = false,
            ('"', false) if cell.is_empty() => quoted = true,
            (',', false) => row.push(std::mem::take(&mut cell)),
            ('\r', false) if characters.peek() == Some(&'\n') => {}
            ('\n', false) => {
                row.push(std::mem::take(&mut cell));
                let full = std::mem::take(&mut row);
                if full.len() > 1 || !full[0].is_empty() {
                    rows.push((begin, full));
                }
                line += 1;
                begin = line;
            }
            (c, _) => {
                line += usize::from(c == '\n');
                cell.push(c);
            }
        }
    }
    if !cell.is_empty() || !row.is_empty() {
        row.push(cell);
        rows.push((begin, row));
    }
    rows
}
