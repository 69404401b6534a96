//! PG-19 (Rae et al., ICLR 2020): books published before 1919. The folder holds `train`, `validation` and `test`, each with one `.txt` file
//! a book, and `metadata.csv`; [`crate::load`] reads it as documents. This is the list of its books.

use std::path::Path;

use crate::error::{Error, Result, io};
use crate::glue::table::csv;

/// Words of the validation split, by which the published perplexities are divided.
pub const VALID_WORDS: u64 = 3_007_061;
/// Words of the test split.
pub const TEST_WORDS: u64 = 6_966_499;

/// A line of `metadata.csv`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Book {
    /// Number at Project Gutenberg, and the name of its file.
    pub id: u64,
    /// Its title.
    pub title: String,
    /// The year of its publication, where it is known.
    pub year: Option<i32>,
    /// Where it comes from.
    pub url: String,
}

/// The books of a folder in the order of `metadata.csv`, whose columns are id, title, year and address, with or without a line that names
/// them.
///
/// # Errors
/// A file that is missing or malformed, with the line.
pub fn books(folder: &Path) -> Result<Vec<Book>> {
    let path = folder.join("metadata.csv");
    let text = std::fs::read_to_string(&path).map_err(io("read", &path))?;
    let mut books = vec![];
    for (line, cells) in csv(&text) {
        let wrong = |message: &str| Error::Layout {
            path: format!("{}:{line}", path.display()).into(),
            message: message.into(),
        };
        let [id, title, year, url] = &cells[..] else {
            return Err(wrong("expected an id, a title, a year and an address"));
        };
        let Ok(id) = id.trim().parse() else {
            if books.is_empty() && line == 1 {
                continue;
            }
            return Err(wrong("the id is no number"));
        };
        // "1902.0" occurs as well, and empty years do.
        let year = year.trim().split('.').next().unwrap_or("");
        let year = match year {
            "" => None,
            year => Some(year.parse().map_err(|_| wrong("the year is no number"))?),
        };
        books.push(Book {
            id,
            title: title.clone(),
            year,
            url: url.clone(),
        });
    }
    Ok(books)
}
