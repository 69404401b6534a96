//! The New Testament verse by verse in three translations: the King James Version (1611, spelling of 1769), the World English Bible,
//! and the Spanish Reina-Valera of 1909.
//!
//! ```
//! use datasets::verses::{self, Translation};
//!
//! let verses = verses::load()?;
//! assert_eq!(verses[0].to_string(), "MAT 1:1");
//! assert!(verses[0].text(Translation::Kjv).starts_with("The book of the generation of Jesus Christ"));
//! # Ok::<(), datasets::Error>(())
//! ```

use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::embedded;
use crate::error::{Error, Result};
use crate::labelled::Split;

/// Name of the embedded data set.
pub const NT_VERSES: &str = "nt-verses";

/// First line of the embedded table.
pub(crate) const HEADER: &str = "verse\tkjv\tweb\trv1909";

/// A book of the New Testament.
#[derive(Debug, PartialEq, Eq)]
pub struct Book {
    /// Three letters, such as `MAT`.
    pub code: &'static str,
    /// Its name in English.
    pub name: &'static str,
    /// Number of verses of each chapter, as the King James Version counts them.
    pub chapters: &'static [u8],
}

impl Book {
    /// Headings of chapters and verses.
    pub(crate) fn slots(&self) -> usize {
        self.chapters
            .iter()
            .map(|verses| 1 + usize::from(*verses))
            .sum()
    }
}

const fn book(code: &'static str, name: &'static str, chapters: &'static [u8]) -> Book {
    Book {
        code,
        name,
        chapters,
    }
}

/// The books in their order: 260 chapters, 7,957 verses.
#[rustfmt::skip]
pub const BOOKS: [Book; 27] = [
    book("MAT", "Matthew", &[25, 23, 17, 25, 48, 34, 29, 34, 38, 42, 30, 50, 58, 36, 39, 28, 27, 35, 30, 34, 46, 46, 39, 51, 46, 75, 66, 20]),
    book("MRK", "Mark", &[45, 28, 35, 41, 43, 56, 37, 38, 50, 52, 33, 44, 37, 72, 47, 20]),
    book("LUK", "Luke", &[80, 52, 38, 44, 39, 49, 50, 56, 62, 42, 54, 59, 35, 35, 32, 31, 37, 43, 48, 47, 38, 71, 56, 53]),
    book("JHN", "John", &[51, 25, 36, 54, 47, 71, 53, 59, 41, 42, 57, 50, 38, 31, 27, 33, 26, 40, 42, 31, 25]),
    book("ACT", "Acts", &[26, 47, 26, 37, 42, 15, 60, 40, 43, 48, 30, 25, 52, 28, 41, 40, 34, 28, 41, 38, 40, 30, 35, 27, 27, 32, 44, 31]),
    book("ROM", "Romans", &[32, 29, 31, 25, 21, 23, 25, 39, 33, 21, 36, 21, 14, 23, 33, 27]),
    book("1CO", "1 Corinthians", &[31, 16, 23, 21, 13, 20, 40, 13, 27, 33, 34, 31, 13, 40, 58, 24]),
    book("2CO", "2 Corinthians", &[24, 17, 18, 18, 21, 18, 16, 24, 15, 18, 33, 21, 14]),
    book("GAL", "Galatians", &[24, 21, 29, 31, 26, 18]),
    book("EPH", "Ephesians", &[23, 22, 21, 32, 33, 24]),
    book("PHP", "Philippians", &[30, 30, 21, 23]),
    book("COL", "Colossians", &[29, 23, 25, 18]),
    book("1TH", "1 Thessalonians", &[10, 20, 13, 18, 28]),
    book("2TH", "2 Thessalonians", &[12, 17, 18]),
    book("1TI", "1 Timothy", &[20, 15, 16, 16, 25, 21]),
    book("2TI", "2 Timothy", &[18, 26, 17, 22]),
    book("TIT", "Titus", &[16, 15, 15]),
    book("PHM", "Philemon", &[25]),
    book("HEB", "Hebrews", &[14, 18, 19, 16, 14, 20, 28, 13, 28, 39, 40, 29, 25]),
    book("JAS", "James", &[27, 26, 18, 17, 20]),
    book("1PE", "1 Peter", &[25, 25, 22, 19, 14]),
    book("2PE", "2 Peter", &[21, 22, 18]),
    book("1JN", "1 John", &[10, 29, 24, 21, 21]),
    book("2JN", "2 John", &[13]),
    book("3JN", "3 John", &[14]),
    book("JUD", "Jude", &[25]),
    book("REV", "Revelation", &[20, 29, 22, 11, 14, 17, 17, 13, 21, 11, 19, 17, 18, 20, 8, 21, 18, 24, 21, 15, 27, 21]),
];

/// One of the translations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Translation {
    /// The King James Version, English of 1611 in the spelling of 1769.
    Kjv,
    /// The World English Bible, English of today.
    Web,
    /// The Reina-Valera of 1909, Spanish.
    Rv1909,
}

/// A verse in all translations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verse {
    /// Index into [`BOOKS`].
    pub book: usize,
    /// Chapter, from 1.
    pub chapter: usize,
    /// Number in the chapter, from 1.
    pub number: usize,
    texts: [String; 3],
}

/// `MAT 1:1`.
impl fmt::Display for Verse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = BOOKS.get(self.book).map_or("", |book| book.code);
        write!(f, "{code} {}:{}", self.chapter, self.number)
    }
}

impl Verse {
    /// The verse in one translation.
    pub fn text(&self, translation: Translation) -> &str {
        &self.texts[translation as usize]
    }

    /// Number of the verse's chapter among all chapters, from 0.
    pub fn chapter_index(&self) -> usize {
        let before: usize = BOOKS[..self.book].iter().map(|b| b.chapters.len()).sum();
        before + self.chapter - 1
    }

    /// Chapters are split whole, so that no verse and hardly a story is in two splits.
    pub(crate) fn split(&self) -> Split {
        match self.chapter_index() % 10 {
            0 | 5 => Split::Test,
            3 => Split::Valid,
            _ => Split::Train,
        }
    }
}

/// Verses in three splits, chapter by chapter: of the 260 chapters in their order every 5th is test, every 10th + 3 valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verses {
    /// To learn from.
    pub train: Vec<Verse>,
    /// To choose by.
    pub valid: Vec<Verse>,
    /// To report.
    pub test: Vec<Verse>,
}

/// All verses in their order. A verse that one translation lacks is in none of them.
///
/// # Errors
/// [`Error::Digest`] for a damaged build.
pub fn load() -> Result<Vec<Verse>> {
    parse(&embedded::text(NT_VERSES)?, Path::new("embedded nt-verses"))
}

/// All verses, split by chapter: translation pairs that share no chapter.
///
/// ```
/// let verses = datasets::verses::splits()?;
/// let counts = [verses.train.len(), verses.valid.len(), verses.test.len()];
/// assert_eq!(counts.iter().sum::<usize>(), datasets::verses::load()?.len());
/// # Ok::<(), datasets::Error>(())
/// ```
///
/// # Errors
/// As [`load`].
pub fn splits() -> Result<Verses> {
    let mut splits: [Vec<Verse>; 3] = Default::default();
    for verse in load()? {
        splits[verse.split() as usize].push(verse);
    }
    let [train, valid, test] = splits;
    Ok(Verses { train, valid, test })
}

fn parse(text: &str, file: &Path) -> Result<Vec<Verse>> {
    let wrong = |line: usize, message: &str| Error::Layout {
        path: format!("{}:{line}", file.display()).into(),
        message: message.into(),
    };
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    if lines.next().map(|(_, line)| line) != Some(HEADER) {
        return Err(wrong(1, "the columns must be verse, kjv, web, rv1909"));
    }
    let verse = |(number, line): (usize, &str)| {
        let cells: Vec<&str> = line.split('\t').collect();
        let [reference, kjv, web, rv1909] = cells[..] else {
            return Err(wrong(number, "expected four columns"));
        };
        let place = place(reference).ok_or_else(|| {
            wrong(
                number,
                "expected a book, a chapter and a verse such as MAT 1:1",
            )
        })?;
        Ok(Verse {
            book: place.0,
            chapter: place.1,
            number: place.2,
            texts: [kjv, web, rv1909].map(str::to_owned),
        })
    };
    lines.map(verse).collect()
}

/// Book, chapter and verse of `MAT 1:1`.
fn place(reference: &str) -> Option<(usize, usize, usize)> {
    let (code, place) = reference.split_once(' ')?;
    let (chapter, verse) = place.split_once(':')?;
    let book = BOOKS.iter().position(|book| book.code == code)?;
    let (chapter, verse): (usize, usize) = (chapter.parse().ok()?, verse.parse().ok()?);
    let verses = BOOKS[book].chapters.get(chapter.checked_sub(1)?)?;
    (1..=usize::from(*verses))
        .contains(&verse)
        .then_some((book, chapter, verse))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canon_is_complete() {
        let chapters: usize = BOOKS.iter().map(|book| book.chapters.len()).sum();
        let slots: usize = BOOKS.iter().map(Book::slots).sum();
        assert_eq!((chapters, slots - chapters), (260, 7957));
    }

    #[test]
    fn damaged_tables_name_the_line() {
        let table = |row: &str| format!("{HEADER}\nMAT 1:1\ta\tb\tc\n{row}\n");
        assert_eq!(
            parse(&table("3JN 1:14\ta\tb\tc"), Path::new("f"))
                .unwrap()
                .len(),
            2
        );
        for row in [
            "MAT 1:2\ta\tb",
            "3JN 1:15\ta\tb\tc",
            "MAT 0:1\ta\tb\tc",
            "XXX 1:1\ta\tb\tc",
            "MAT\ta\tb\tc",
        ] {
            let message = parse(&table(row), Path::new("f")).unwrap_err().to_string();
            assert!(message.starts_with("f:3: "), "{message}");
        }
        assert!(parse("", Path::new("f")).is_err());
    }
}
