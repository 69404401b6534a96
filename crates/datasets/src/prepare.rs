//! From text to tokens: the published preparations of enwik8, text8 and WikiText-103, and plain bytes, characters and words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, value};
use crate::stream::batchify;
use crate::vocabulary::{IdOrder, Vocabulary};

/// The token that ends every line of a word-level text; on enwik8 it is the newline byte, on text8 the end of the text.
pub const EOS: &str = "<eos>";

/// How a text is cut into tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TextFormat {
    /// Every byte is a token; nothing is added.
    Bytes,
    /// Every Unicode character is a token; nothing is added.
    Chars,
    /// Every line is split at white space and ended by `<eos>` (WikiText's token files).
    Words,
    /// Every byte is a token, a newline is `<eos>`, and a last line without newline gets its `<eos>`.
    Enwik8,
    /// The longest pieces of a vocabulary, which must be given; nothing is added.
    Subwords,
    /// Outer white space is stripped, every character is a token, a blank is `_`, and `<eos>` ends every line.
    Text8,
}

/// What a token stands for; it decides the name of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TokenUnit {
    /// Results are bits per byte.
    Byte,
    /// Results are bits per character.
    Char,
    /// Results are perplexities.
    Word,
    /// Results are perplexities of a vocabulary of pieces; only per word or per byte do they compare with others.
    Subword,
}

impl TokenUnit {
    /// Name of the usual metric: `bits_per_byte`, `bits_per_character`, `perplexity` or `subword_perplexity`.
    pub fn metric(self) -> &'static str {
        match self {
            TokenUnit::Byte => "bits_per_byte",
            TokenUnit::Char => "bits_per_character",
            TokenUnit::Word => "perplexity",
            TokenUnit::Subword => "subword_perplexity",
        }
    }

    /// The usual metric for a mean loss in nats per token.
    pub fn from_nats(self, nats: f64) -> f64 {
        match self {
            TokenUnit::Byte | TokenUnit::Char => nats / std::f64::consts::LN_2,
            TokenUnit::Word | TokenUnit::Subword => nats.exp(),
        }
    }
}

impl TextFormat {
    /// All formats, in the order of their explanation.
    pub const ALL: [TextFormat; 6] = [
        TextFormat::Bytes,
        TextFormat::Chars,
        TextFormat::Words,
        TextFormat::Subwords,
        TextFormat::Enwik8,
        TextFormat::Text8,
    ];

    /// The name used in recipes and in `vocab.json`.
    pub fn name(self) -> &'static str {
        match self {
            TextFormat::Bytes => "bytes",
            TextFormat::Chars => "chars",
            TextFormat::Words => "words",
            TextFormat::Subwords => "subwords",
            TextFormat::Enwik8 => "enwik8",
            TextFormat::Text8 => "text8",
        }
    }

    /// What one token of this format stands for.
    pub fn unit(self) -> TokenUnit {
        match self {
            TextFormat::Bytes | TextFormat::Enwik8 => TokenUnit::Byte,
            TextFormat::Chars | TextFormat::Text8 => TokenUnit::Char,
            TextFormat::Words => TokenUnit::Word,
            TextFormat::Subwords => TokenUnit::Subword,
        }
    }
}

impl std::str::FromStr for TextFormat {
    type Err = Error;

    /// # Errors
    /// [`Error::Value`] with the known names.
    fn from_str(name: &str) -> Result<Self> {
        TextFormat::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| {
                value(
                    "format",
                    format!("\"{name}\""),
                    "one of bytes, chars, words, subwords, enwik8, text8",
                )
            })
    }
}

/// The text that the published preparation writes for one split: decimal bytes for enwik8, blank-separated characters for text8,
/// the text itself otherwise.
///
/// # Errors
/// [`Error::NotUtf8`] where the format is made of characters and the bytes are not.
pub fn prepared_text(format: TextFormat, text: &[u8], file: &str) -> Result<String> {
    match format {
        TextFormat::Enwik8 => {
            let mut out = String::with_capacity(text.len() * 4);
            for (index, byte) in text.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                match byte {
                    b'\n' => out.push('\n'),
                    byte => out.push_str(&byte.to_string()),
                }
            }
            Ok(out)
        }
        TextFormat::Text8 => {
            let text = utf8(text, file)?.trim_matches(is_space);
            let mut out = String::with_capacity(text.len() * 2);
            for (index, c) in text.chars().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                out.push(if c == ' ' { '_' } else { c });
            }
            Ok(out)
        }
        TextFormat::Bytes | TextFormat::Subwords => Ok(String::from_utf8_lossy(text).into_owned()),
        TextFormat::Chars | TextFormat::Words => Ok(utf8(text, file)?.to_string()),
    }
}

/// Calls `each(token, offset)` for every token of a raw text, in order. `offset` counts bytes in `text`.
///
/// A token is given as its bytes: one byte, one character in UTF-8, a word, or `<eos>`. For enwik8 the newline byte itself
/// stands for `<eos>`, so that ids stay bytes.
pub(crate) fn each_token(
    format: TextFormat,
    text: &[u8],
    file: &str,
    mut each: impl FnMut(&[u8], usize) -> Result<()>,
) -> Result<()> {
    match format {
        TextFormat::Bytes => {
            for (at, byte) in text.iter().enumerate() {
                each(std::slice::from_ref(byte), at)?;
            }
        }
        TextFormat::Enwik8 => {
            for (at, byte) in text.iter().enumerate() {
                each(std::slice::from_ref(byte), at)?;
            }
            if text.last().is_some_and(|&last| last != b'\n') {
                each(b"\n", text.len())?;
            }
        }
        TextFormat::Chars => {
            let text = utf8(text, file)?;
            for (at, c) in text.char_indices() {
                each(&text.as_bytes()[at..at + c.len_utf8()], at)?;
            }
        }
        TextFormat::Text8 => {
            let whole = utf8(text, file)?;
            let start = whole.len() - whole.trim_start_matches(is_space).len();
            let text = whole.trim_matches(is_space);
            let mut previous = ' ';
            for (at, c) in text.char_indices() {
                let bytes = &text.as_bytes()[at..at + c.len_utf8()];
                match c {
                    ' ' => each(b"_", start + at)?,
                    // Three spellings of a line end, of which "\r\n" would be two here: the blanks that the preparation
                    // puts between characters keep them apart.
                    '\n' | '\r' => each(EOS.as_bytes(), start + at)?,
                    c if is_space(c) => {}
                    _ => each(bytes, start + at)?,
                }
                previous = c;
            }
            // The stripped text ends in a character that is no space, so its last line is open.
            if !is_space(previous) {
                each(EOS.as_bytes(), start + text.len())?;
            }
        }
        TextFormat::Words => each_word(utf8(text, file)?, &mut each)?,
        TextFormat::Subwords => {
            return Err(value(
                "format",
                "\"subwords\"",
                "with a \"vocab\" of pieces, such as `cargo xtask data vocab` makes: they do not follow from the text alone",
            ));
        }
    }
    Ok(())
}

/// As [`each_token`], for a text that the preparation has already been applied to (decimal bytes or separated characters).
pub(crate) fn each_prepared_token(
    format: TextFormat,
    text: &[u8],
    file: &str,
    mut each: impl FnMut(&[u8], usize) -> Result<()>,
) -> Result<()> {
    match format {
        TextFormat::Enwik8 => each_word(utf8(text, file)?, &mut |word, at| {
            if word == EOS.as_bytes() {
                return each(b"\n", at);
            }
            let number = std::str::from_utf8(word)
                .ok()
                .and_then(|word| word.parse::<u8>().ok());
            match number {
                Some(byte) if byte != b'\n' => each(&[byte], at),
                _ => Err(value(
                    &format!("{file} (byte {at})"),
                    format!("\"{}\"", String::from_utf8_lossy(word)),
                    "prepared enwik8 text holds decimal byte values separated by blanks; for the raw file leave out \"prepared\"",
                )),
            }
        }),
        TextFormat::Text8 => each_word(utf8(text, file)?, &mut each),
        _ => each_token(format, text, file, each),
    }
}

/// Lines as Python's text files have them (`\n`, `\r`, `\r\n`), words as `str.split` finds them, `<eos>` after each line.
fn each_word(text: &str, each: &mut dyn FnMut(&[u8], usize) -> Result<()>) -> Result<()> {
    let bytes = text.as_bytes();
    let mut start = 0;
    while start < bytes.len() {
        let end = bytes[start..]
            .iter()
            .position(|b| matches!(b, b'\n' | b'\r'))
            .map_or(bytes.len(), |n| start + n);
        let line = &text[start..end];
        let mut word: Option<usize> = None;
        for (at, c) in line.char_indices() {
            match (is_space(c), word) {
                (false, None) => word = Some(at),
                (true, Some(from)) => {
                    each(&line.as_bytes()[from..at], start + from)?;
                    word = None;
                }
                _ => {}
            }
        }
        if let Some(from) = word {
            each(&line.as_bytes()[from..], start + from)?;
        }
        each(EOS.as_bytes(), end)?;
        start = if bytes[end..].starts_with(b"\r\n") {
            end + 2
        } else {
            end + 1
        };
    }
    Ok(())
}

/// White space as Python's `str.split` and `str.strip` see it: Unicode's, and the four ASCII separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The text as UTF-8, or an error with the offset of the first bad byte.
pub(crate) fn utf8<'a>(text: &'a [u8], file: &str) -> Result<&'a str> {
    std::str::from_utf8(text).map_err(|error| Error::NotUtf8 {
        file: file.into(),
        byte: error.valid_up_to(),
    })
}

/// Everything that preparation makes of three texts; enough to replay a published data pipeline.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Output of [`prepared_text`] for train, valid and test.
    pub prepared_text: [String; 3],
    /// Vocabulary of the training text.
    pub vocabulary: Vocabulary,
    /// Token ids of train, valid and test.
    pub ids: [Vec<u32>; 3],
    /// The training ids as `batch` rows of equal width.
    pub batchified_train: Vec<Vec<u32>>,
}

/// Prepares raw train, valid and test texts and cuts the training ids into `batch` rows.
///
/// ```
/// use datasets::{IdOrder, TextFormat, prepare};
///
/// let done = prepare(TextFormat::Text8, IdOrder::FirstAppearance, [b" a bad cab", b"dab", b" a "], 2)?;
/// assert_eq!(done.prepared_text[0], "a _ b a d _ c a b");
/// assert_eq!(done.vocabulary.names(), ["a", "_", "b", "d", "c", "<eos>"]);
/// assert_eq!(done.ids[2], [0, 5]);
/// assert_eq!(done.batchified_train, [[0, 1, 2, 0, 3], [1, 4, 0, 2, 5]]);
/// # Ok::<(), datasets::Error>(())
/// ```
///
/// # Errors
/// [`Error::UnknownToken`] for a token that train does not have, [`Error::NotUtf8`], and [`Error::Value`] for a batch of 0 or
/// one larger than the training text.
pub fn prepare(
    format: TextFormat,
    order: IdOrder,
    texts: [&[u8]; 3],
    batch: usize,
) -> Result<Prepared> {
    let [train, valid, test] = texts;
    let (vocabulary, train_ids) = Vocabulary::from_train(format, train, order, "train")?;
    let ids = [
        train_ids,
        vocabulary.encode(valid, "valid")?,
        vocabulary.encode(test, "test")?,
    ];
    Ok(Prepared {
        prepared_text: [
            prepared_text(format, train, "train")?,
            prepared_text(format, valid, "valid")?,
            prepared_text(format, test, "test")?,
        ],
        batchified_train: batchify(&ids[0], batch)?,
        vocabulary,
        ids,
    })
}
