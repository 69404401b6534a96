//! Token ids, made from the training text alone.

use std::collections::HashMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, io};
use crate::prepare::{EOS, TextFormat, TokenUnit, each_prepared_token, each_token};

/// Order in which the tokens of the training text get their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IdOrder {
    /// The token seen first gets id 0.
    #[default]
    FirstAppearance,
    /// The most frequent token gets id 0, ties in reverse order of first appearance (what adaptive input and softmax need).
    Count,
}

/// The tokens of a training text and their ids.
#[derive(Debug, Clone, PartialEq)]
pub struct Vocabulary {
    format: TextFormat,
    tokens: Vec<Box<[u8]>>,
    ids: Lookup,
}

/// Token to id; single bytes, which are most tokens of most corpora, without hashing.
#[derive(Debug, Clone, PartialEq)]
struct Lookup {
    single: Box<[u32; 256]>,
    longer: HashMap<Box<[u8]>, u32>,
}

/// No id; a vocabulary cannot have as many tokens.
const NONE: u32 = u32::MAX;

impl Lookup {
    fn new() -> Self {
        Lookup {
            single: Box::new([NONE; 256]),
            longer: HashMap::new(),
        }
    }

    fn get(&self, token: &[u8]) -> Option<u32> {
        match token {
            [byte] => Some(self.single[usize::from(*byte)]).filter(|&id| id != NONE),
            _ => self.longer.get(token).copied(),
        }
    }

    fn set(&mut self, token: &[u8], id: u32) {
        match token {
            [byte] => self.single[usize::from(*byte)] = id,
            _ => {
                self.longer.insert(token.into(), id);
            }
        }
    }
}

/// Where the ids of a vocabulary come from while a training text of several documents is read.
#[derive(Debug)]
pub(crate) struct Builder {
    vocabulary: Vocabulary,
    counts: Vec<u64>,
    prepared: bool,
}

impl Builder {
    pub(crate) fn new(format: TextFormat, prepared: bool) -> Self {
        Builder {
            vocabulary: Vocabulary {
                format,
                tokens: Vec::new(),
                ids: Lookup::new(),
            },
            counts: Vec::new(),
            prepared,
        }
    }

    /// Reads one document and appends its ids, in order of first appearance, to `out`.
    pub(crate) fn read(&mut self, text: &[u8], file: &str, out: &mut Vec<u32>) -> Result<()> {
        let Builder {
            vocabulary,
            counts,
            prepared,
        } = self;
        let format = vocabulary.format;
        let each = |token: &[u8], _| {
            let id = match vocabulary.ids.get(token) {
                Some(id) => id,
                None => {
                    let id = vocabulary.push(token);
                    counts.push(0);
                    id
                }
            };
            counts[id as usize] += 1;
            out.push(id);
            Ok(())
        };
        match prepared {
            true => each_prepared_token(format, text, file, each),
            false => each_token(format, text, file, each),
        }
    }

    /// The vocabulary in the order asked for; `ids` (all that `read` wrote) are renumbered with it.
    pub(crate) fn finish(self, order: IdOrder, ids: &mut [u32]) -> Vocabulary {
        if order == IdOrder::FirstAppearance {
            return self.vocabulary;
        }
        let Vocabulary { format, tokens, .. } = self.vocabulary;
        let mut by_count: Vec<usize> = (0..tokens.len()).rev().collect();
        // The sort is stable, so equal counts keep the reversed order of appearance.
        by_count.sort_by_key(|&old| std::cmp::Reverse(self.counts[old]));
        let mut new_id = vec![0u32; tokens.len()];
        let mut vocabulary = Vocabulary {
            format,
            tokens: Vec::with_capacity(tokens.len()),
            ids: Lookup::new(),
        };
        for old in by_count {
            new_id[old] = vocabulary.push(&tokens[old]);
        }
        for id in ids {
            *id = new_id[*id as usize];
        }
        vocabulary
    }
}

impl Vocabulary {
    /// Makes the vocabulary of a raw training text and the ids of that text, in one pass.
    ///
    /// ```
    /// use datasets::{IdOrder, TextFormat, Vocabulary};
    ///
    /// let (vocabulary, ids) = Vocabulary::from_train(TextFormat::Bytes, b"abba c", IdOrder::FirstAppearance, "train.txt")?;
    /// assert_eq!(ids, [0, 1, 1, 0, 2, 3]);
    /// assert_eq!(vocabulary.decode(&[3, 0, 1])?, "cab");
    /// let error = vocabulary.encode(b"abd", "valid.txt").unwrap_err();
    /// assert!(error.to_string().starts_with("valid.txt: unknown token \"d\" at position 2 (byte 2)"));
    /// # Ok::<(), datasets::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotUtf8`] where the format is made of characters and the bytes are not.
    pub fn from_train(
        format: TextFormat,
        text: &[u8],
        order: IdOrder,
        file: &str,
    ) -> Result<(Vocabulary, Vec<u32>)> {
        let mut ids = Vec::new();
        let mut builder = Builder::new(format, false);
        builder.read(text, file, &mut ids)?;
        Ok((builder.finish(order, &mut ids), ids))
    }

    /// How texts are cut into tokens of this vocabulary.
    pub fn format(&self) -> TextFormat {
        self.format
    }

    /// What one token stands for.
    pub fn unit(&self) -> TokenUnit {
        self.format.unit()
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// True for the vocabulary of an empty text.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Id of a token given as its bytes (for enwik8, `<eos>` is the newline byte).
    pub fn id(&self, token: &[u8]) -> Option<u32> {
        self.ids.get(token)
    }

    /// Names in the order of ids, as the published vocabularies spell them: enwik8 in decimal bytes and `<eos>`, plain bytes in
    /// decimal, everything else as it is.
    pub fn names(&self) -> Vec<String> {
        self.tokens.iter().map(|token| self.name(token)).collect()
    }

    fn name(&self, token: &[u8]) -> String {
        match (self.format, token) {
            (TextFormat::Enwik8, b"\n") => EOS.to_string(),
            (TextFormat::Enwik8 | TextFormat::Bytes, [byte]) => byte.to_string(),
            _ => String::from_utf8_lossy(token).into_owned(),
        }
    }

    /// Appends the byte values that the training text lacks, in ascending order, so that any text can be encoded. Ids of the
    /// tokens already there do not change. Without effect for formats whose tokens are not bytes.
    pub fn complete_bytes(&mut self) {
        if self.unit() == TokenUnit::Byte {
            for byte in 0..=u8::MAX {
                if self.ids.get(&[byte]).is_none() {
                    self.push(&[byte]);
                }
            }
        }
    }

    /// A vocabulary of pieces: the 256 single bytes, which get the ids 0 to 255, and `pieces` of at least two bytes after them. Texts
    /// are cut from left to right into the longest pieces there are.
    ///
    /// ```
    /// use datasets::Vocabulary;
    ///
    /// let vocabulary = Vocabulary::from_pieces(["th", "the", " the"]);
    /// assert_eq!(vocabulary.encode(b"the thesis", "")?, [257, 258, 115, 105, 115].map(|id: u32| id));
    /// # Ok::<(), datasets::Error>(())
    /// ```
    pub fn from_pieces<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Self {
        let mut vocabulary = Vocabulary {
            format: TextFormat::Subwords,
            tokens: Vec::new(),
            ids: Lookup::new(),
        };
        for byte in 0..=u8::MAX {
            vocabulary.push(&[byte]);
        }
        for piece in pieces {
            if piece.len() > 1 && vocabulary.ids.get(piece.as_bytes()).is_none() {
                vocabulary.push(piece.as_bytes());
            }
        }
        vocabulary
    }

    /// Cuts a text into the longest pieces.
    fn encode_pieces(&self, text: &[u8], file: &str, out: &mut Vec<u32>) -> Result<()> {
        let first = out.len();
        let longest = self
            .tokens
            .iter()
            .map(|token| token.len())
            .max()
            .unwrap_or(1);
        let mut at = 0;
        while at < text.len() {
            let most = longest.min(text.len() - at);
            let piece = (1..=most)
                .rev()
                .find_map(|n| Some((n, self.ids.get(&text[at..at + n])?)));
            match piece {
                Some((n, id)) => {
                    out.push(id);
                    at += n;
                }
                None => {
                    self.known(&text[at..at + 1], file, out.len() - first, at)?;
                }
            }
        }
        Ok(())
    }

    /// Ids of a raw text. `file` is only for the message.
    ///
    /// # Errors
    /// [`Error::UnknownToken`] for the first token that the vocabulary lacks, and [`Error::NotUtf8`].
    pub fn encode(&self, text: &[u8], file: &str) -> Result<Vec<u32>> {
        let mut out = Vec::new();
        self.encode_into(text, file, false, &mut out)?;
        Ok(out)
    }

    /// Ids of the beginning of a text: as [`encode`](Self::encode), without the `<eos>` that would end the open last line.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        if self.format == TextFormat::Text8 {
            // The preparation would strip a trailing blank, which a prompt may well end with.
            let mut ids = Vec::new();
            for (at, c) in text.char_indices() {
                let token = match c {
                    ' ' => "_",
                    '\n' => EOS,
                    _ => &text[at..at + c.len_utf8()],
                };
                ids.push(self.known(token.as_bytes(), "prompt", ids.len(), at)?);
            }
            return Ok(ids);
        }
        let mut ids = self.encode(text.as_bytes(), "prompt")?;
        let adds_eos = matches!(self.format, TextFormat::Words | TextFormat::Enwik8);
        if adds_eos && !text.ends_with(['\n', '\r']) {
            ids.pop();
        }
        Ok(ids)
    }

    /// Id of a token, or the error that says where it stands.
    fn known(&self, token: &[u8], file: &str, position: usize, byte: usize) -> Result<u32> {
        self.ids.get(token).ok_or_else(|| Error::UnknownToken {
            token: self.spell(token),
            file: file.into(),
            position,
            byte,
            remedy: self.unknown_remedy().into(),
        })
    }

    pub(crate) fn encode_into(
        &self,
        text: &[u8],
        file: &str,
        prepared: bool,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        if self.format == TextFormat::Subwords {
            return self.encode_pieces(text, file, out);
        }
        let first = out.len();
        let each = |token: &[u8], byte| {
            let id = self.known(token, file, out.len() - first, byte)?;
            out.push(id);
            Ok(())
        };
        match prepared {
            true => each_prepared_token(self.format, text, file, each),
            false => each_token(self.format, text, file, each),
        }
    }

    /// A token as an error message writes it.
    fn spell(&self, token: &[u8]) -> String {
        match (self.unit(), token) {
            (TokenUnit::Byte, [byte]) if !byte.is_ascii_graphic() && *byte != b' ' => {
                format!("0x{byte:02x}")
            }
            _ => format!("{:?}", String::from_utf8_lossy(token)),
        }
    }

    fn unknown_remedy(&self) -> &'static str {
        match self.unit() {
            TokenUnit::Byte => {
                "remove it there, move text with it into train, or set \"all_bytes\": true for a vocabulary of all 256 byte values"
            }
            TokenUnit::Subword => "use a vocabulary that holds all 256 bytes",
            TokenUnit::Char => {
                "remove it there, move text with it into train, or use \"format\": \"bytes\""
            }
            TokenUnit::Word => {
                "write <unk> for words that train does not have (and for some that it has), or move text with it into train"
            }
        }
    }

    /// The bytes that an id stands for after `previous`: words bring the blank before them, `<eos>` is a newline, text8's `_` a
    /// blank. Concatenated pieces are what [`decode_bytes`](Self::decode_bytes) returns.
    ///
    /// # Errors
    /// [`Error::TokenId`] for an id outside the vocabulary.
    pub fn piece(&self, previous: Option<u32>, id: u32) -> Result<Vec<u8>> {
        let token = self.token(id)?;
        Ok(match (self.format, token) {
            (TextFormat::Words | TextFormat::Text8, token) if token == EOS.as_bytes() => {
                b"\n".to_vec()
            }
            (TextFormat::Text8, b"_") => b" ".to_vec(),
            (TextFormat::Words, word) => match previous.map(|id| self.token(id)).transpose()? {
                Some(before) if before != EOS.as_bytes() => [b" ", word].concat(),
                _ => word.to_vec(),
            },
            (_, token) => token.to_vec(),
        })
    }

    /// The text that ids stand for, as bytes.
    ///
    /// # Errors
    /// [`Error::TokenId`] for an id outside the vocabulary.
    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(ids.len());
        let mut previous = None;
        for &id in ids {
            out.extend(self.piece(previous, id)?);
            previous = Some(id);
        }
        Ok(out)
    }

    /// The text that ids stand for; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::TokenId`] for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.decode_bytes(ids)?).into_owned())
    }

    fn token(&self, id: u32) -> Result<&[u8]> {
        self.tokens
            .get(id as usize)
            .map(|token| &**token)
            .ok_or(Error::TokenId {
                id,
                len: self.tokens.len(),
            })
    }

    fn push(&mut self, token: &[u8]) -> u32 {
        let id = self.tokens.len() as u32;
        self.tokens.push(token.into());
        self.ids.set(token, id);
        id
    }

    /// The content of `vocab.json`: the format and the tokens in the order of ids, bytes as numbers, all else as strings.
    pub fn to_json(&self) -> String {
        let tokens: Vec<JsonToken> = self
            .tokens
            .iter()
            .map(|token| match (self.unit(), &**token) {
                (TokenUnit::Byte | TokenUnit::Subword, [byte]) => JsonToken::Byte(*byte),
                _ => JsonToken::Text(String::from_utf8_lossy(token).into_owned()),
            })
            .collect();
        let format = self.format.name();
        let mut json = format!("{{\n  \"format\": \"{format}\",\n  \"tokens\": [");
        for (index, token) in tokens.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            match token {
                JsonToken::Byte(byte) => json.push_str(&format!("{comma}{byte}")),
                JsonToken::Text(text) => {
                    let text = serde_json::Value::from(text.as_str());
                    json.push_str(&format!("{comma}\n    {text}"));
                }
            }
        }
        json.push_str("]\n}\n");
        json
    }

    /// Reads what [`to_json`](Self::to_json) wrote. `file` is only for the message.
    ///
    /// # Errors
    /// [`Error::Json`] for anything but a list of distinct tokens of the kind that the format has.
    pub fn from_json(json: &str, file: &str) -> Result<Self> {
        let wrong = |message: String| Error::Json {
            file: file.into(),
            message,
        };
        let JsonVocabulary { format, tokens } =
            serde_json::from_str(json).map_err(|error| wrong(error.to_string()))?;
        let mut vocabulary = Vocabulary {
            format,
            tokens: Vec::with_capacity(tokens.len()),
            ids: Lookup::new(),
        };
        for (id, token) in tokens.into_iter().enumerate() {
            let token = match (vocabulary.unit(), token) {
                (TokenUnit::Byte | TokenUnit::Subword, JsonToken::Byte(byte)) => vec![byte],
                (TokenUnit::Char | TokenUnit::Word | TokenUnit::Subword, JsonToken::Text(text))
                    if !text.is_empty() =>
                {
                    text.into_bytes()
                }
                (TokenUnit::Byte, _) => {
                    return Err(wrong(format!(
                        "tokens[{id}]: expected a number from 0 to 255"
                    )));
                }
                _ => {
                    return Err(wrong(format!(
                        "tokens[{id}]: expected a string that is not empty"
                    )));
                }
            };
            if let Some(first) = vocabulary.ids.get(&token) {
                let name = vocabulary.spell(&token);
                return Err(wrong(format!(
                    "tokens[{id}]: {name} is tokens[{first}] already"
                )));
            }
            vocabulary.push(&token);
        }
        if vocabulary.unit() == TokenUnit::Subword
            && let Some(byte) = (0..=u8::MAX).find(|byte| vocabulary.ids.get(&[*byte]).is_none())
        {
            return Err(wrong(format!(
                "tokens: the single byte {byte} is missing, so some texts could not be cut into pieces"
            )));
        }
        Ok(vocabulary)
    }

    /// Reads a `vocab.json`.
    ///
    /// # Errors
    /// [`Error::Io`], and those of [`from_json`](Self::from_json).
    pub fn from_file(path: &Path) -> Result<Self> {
        let json = std::fs::read_to_string(path).map_err(io("read", path))?;
        Vocabulary::from_json(&json, &path.display().to_string())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonVocabulary {
    format: TextFormat,
    tokens: Vec<JsonToken>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum JsonToken {
    Byte(u8),
    Text(String),
}
