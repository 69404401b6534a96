//! Text to token ids: WordPiece, through the crate `tokenizers`.

use crate::error::{Error, Result, input_error};
use crate::input::EncoderInput;
use serde::Deserialize;
use serde_json::json;
use std::path::{Path, PathBuf};
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::utils::truncation::truncate_encodings;
use tokenizers::{
    AddedToken, PostProcessor, PostProcessorWrapper, Tokenizer, TruncationDirection,
    TruncationParams, TruncationStrategy,
};

/// The file of a complete tokenizer.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// The file of a WordPiece vocabulary: one entry a line, the line's number is the id.
pub const VOCAB_FILE: &str = "vocab.txt";

/// The file that says how text is cleaned before a `vocab.txt` applies.
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";

/// Everything about a tokenizer that may lie in a model folder and travels with it.
pub const TOKENIZER_FILES: [&str; 8] = [
    TOKENIZER_FILE,
    VOCAB_FILE,
    TOKENIZER_CONFIG_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    PIECES_FILE,
    MERGES_FILE,
    "spiece.model",
];

/// The files of a byte-level vocabulary, RoBERTa's: the ids, and the pairs that are joined, in order.
const PIECES_FILE: &str = "vocab.json";
const MERGES_FILE: &str = "merges.txt";

/// The tokenizer's files of a model folder, by name and content.
///
/// # Errors
/// A file that cannot be read.
pub fn tokenizer_files(dir: impl AsRef<Path>) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let files = TOKENIZER_FILES
        .into_iter()
        .map(|name| (name, dir.as_ref().join(name)));
    let present = files.filter(|(_, file)| file.is_file());
    present
        .map(|(name, file)| Ok((name, read(&file)?)))
        .collect()
}

/// How text is cleaned before WordPiece; the keys are those of `tokenizer_config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TokenizerOptions {
    /// Whether capitals become small letters.
    pub do_lower_case: bool,
    /// Whether accents are removed; as `do_lower_case` where absent.
    pub strip_accents: Option<bool>,
    /// Whether every Chinese character is a word of its own.
    pub tokenize_chinese_chars: bool,
    /// Whether the first word is treated as if a blank stood before it; for byte-level vocabularies.
    pub add_prefix_space: bool,
    /// The mask's token, for byte-level vocabularies: an object may say whether the blank before it belongs to it.
    pub mask_token: MaskToken,
}

/// What a `tokenizer_config.json` says about the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskToken {
    /// Whether the blank before a mask belongs to it, as RoBERTa was trained.
    pub lstrip: bool,
}

impl Default for MaskToken {
    fn default() -> Self {
        Self { lstrip: true }
    }
}

impl<'de> Deserialize<'de> for MaskToken {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        // Either the token alone or an object about it.
        let value = serde_json::Value::deserialize(from)?;
        let lstrip = value.get("lstrip").and_then(serde_json::Value::as_bool);
        Ok(Self {
            lstrip: lstrip.unwrap_or(true),
        })
    }
}

impl Default for TokenizerOptions {
    fn default() -> Self {
        Self {
            do_lower_case: true,
            strip_accents: None,
            tokenize_chinese_chars: true,
            add_prefix_space: false,
            mask_token: MaskToken::default(),
        }
    }
}

/// Ids of the special tokens, by their role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialIds {
    /// Fills up shorter sequences.
    pub pad: u32,
    /// Stands for what the vocabulary cannot spell.
    pub unknown: u32,
    /// Begins every sequence.
    pub class: u32,
    /// Ends every segment.
    pub separator: u32,
    /// Stands for a word to be guessed.
    pub mask: u32,
}

/// A text, or a pair of texts, as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Segments: 0 for the first text, 1 for the second.
    pub type_ids: Vec<u32>,
    /// The tokens as strings.
    pub tokens: Vec<String>,
    /// True for tokens that are not of the text.
    pub special: Vec<bool>,
    /// Where each token lies in its text, in characters.
    pub offsets: Vec<(usize, usize)>,
}

/// A tokenizer with its special tokens.
#[derive(Debug, Clone)]
pub struct BertTokenizer {
    /// Without the post-processor, which would else see a text twice.
    inner: Tokenizer,
    /// Puts the special tokens around a text.
    frame: Option<PostProcessorWrapper>,
    special: SpecialIds,
    /// The folder's files it was read from.
    files: Vec<(&'static str, Vec<u8>)>,
}

fn failed(file: &Path, message: impl ToString) -> Error {
    Error::Tokenizer {
        file: file.into(),
        message: message.to_string(),
    }
}

impl BertTokenizer {
    /// Reads the tokenizer of a model folder: `tokenizer.json`, or else `vocab.txt` with the casing that
    /// `tokenizer_config.json` asks for, or else RoBERTa's `vocab.json` with `merges.txt`.
    ///
    /// # Errors
    /// None of these files, or one that cannot be read.
    pub fn from_folder(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = pretrained::model_folder(dir.as_ref())?;
        let mut found = Self::of_folder(&dir)?;
        found.files = tokenizer_files(&dir)?;
        Ok(found)
    }

    fn of_folder(dir: &Path) -> Result<Self> {
        let whole = dir.join(TOKENIZER_FILE);
        if whole.is_file() {
            return Self::from_json_file(&whole);
        }
        let config = dir.join(TOKENIZER_CONFIG_FILE);
        let options = match config.is_file() {
            true => pretrained::read_json(&config)?,
            false => TokenizerOptions::default(),
        };
        let vocab = dir.join(VOCAB_FILE);
        if vocab.is_file() {
            return Self::from_vocab_file(&vocab, options);
        }
        let (pieces, merges) = (dir.join(PIECES_FILE), dir.join(MERGES_FILE));
        if pieces.is_file() && merges.is_file() {
            return Self::from_byte_level_files(&pieces, &merges, options);
        }
        Err(failed(
            dir,
            format!(
                "holds neither {TOKENIZER_FILE}, nor {VOCAB_FILE}, nor {PIECES_FILE} with {MERGES_FILE}; put the model's tokenizer into the folder"
            ),
        ))
    }

    /// Reads the `vocab.json` and `merges.txt` of a byte-level vocabulary, RoBERTa's: `<s> a </s>`, or
    /// `<s> a </s></s> b </s>`.
    ///
    /// # Errors
    /// Files that cannot be read or do not belong together, and a vocabulary without one of the special tokens.
    pub fn from_byte_level_files(
        vocab: &Path,
        merges: &Path,
        options: TokenizerOptions,
    ) -> Result<Self> {
        let name = |file: &Path| file.to_string_lossy().into_owned();
        read(vocab)?;
        read(merges)?;
        let model = BPE::from_file(&name(vocab), &name(merges))
            .build()
            .map_err(|e| failed(vocab, e))?;
        let mut inner = Tokenizer::new(model);
        let id = |token: &str| {
            let found = inner.token_to_id(token);
            found.ok_or_else(|| failed(vocab, format!("has no entry {token}")))
        };
        let ends = [("</s>", id("</s>")?), ("<s>", id("<s>")?)];
        let [separator, class] = ends.map(|(token, id)| (token.to_owned(), id));
        let bytes = ByteLevel::default().add_prefix_space(options.add_prefix_space);
        inner
            .with_pre_tokenizer(Some(bytes))
            .with_decoder(Some(ByteLevel::default()))
            .with_post_processor(Some(
                RobertaProcessing::new(separator, class)
                    .trim_offsets(true)
                    .add_prefix_space(options.add_prefix_space),
            ));
        let special = ["<s>", "<pad>", "</s>", "<unk>"].map(|token| AddedToken::from(token, true));
        inner.add_special_tokens(&special);
        let mask = AddedToken::from("<mask>", true).lstrip(options.mask_token.lstrip);
        inner.add_special_tokens(&[mask]);
        Self::new(inner, vocab)
    }

    /// Reads a `tokenizer.json`. Truncation and padding that it asks for are switched off.
    ///
    /// # Errors
    /// A file that cannot be read, and a tokenizer without one of the special tokens.
    pub fn from_json_file(file: &Path) -> Result<Self> {
        let bytes = read(file)?;
        let inner = Tokenizer::from_bytes(&bytes).map_err(|e| failed(file, e))?;
        Self::new(inner, file)
    }

    /// Reads a `vocab.txt`.
    ///
    /// # Errors
    /// A file that cannot be read, and a vocabulary without one of the special tokens.
    pub fn from_vocab_file(file: &Path, options: TokenizerOptions) -> Result<Self> {
        let bytes = read(file)?;
        let text = std::str::from_utf8(&bytes).map_err(|e| failed(file, e))?;
        let lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
        let mut tokens: Vec<&str> = lines.collect();
        if tokens.last() == Some(&"") {
            tokens.pop();
        }
        Self::from_vocab(&tokens, options, file)
    }

    /// Builds a WordPiece tokenizer from a vocabulary, whose order gives the ids; `file` is only named in errors.
    ///
    /// # Errors
    /// A vocabulary without one of the special tokens.
    pub fn from_vocab<S: AsRef<str>>(
        tokens: &[S],
        options: TokenizerOptions,
        file: &Path,
    ) -> Result<Self> {
        let id = |token: &str| {
            // The last of several equal entries counts, as in the crate's own reader.
            let id = tokens.iter().rposition(|t| t.as_ref().trim_end() == token);
            id.map(|id| id as u32)
                .ok_or_else(|| failed(file, format!("has no entry {token}")))
        };
        let (separator, class) = (id("[SEP]")?, id("[CLS]")?);
        let lines: Vec<&str> = tokens.iter().map(AsRef::as_ref).collect();
        let vocab = WordPiece::read_bytes(lines.join("\n").as_bytes());
        let model = WordPiece::builder()
            .vocab(vocab.map_err(|e| failed(file, e))?)
            .unk_token("[UNK]".into())
            .continuing_subword_prefix("##".into())
            .max_input_chars_per_word(100)
            .build()
            .map_err(|e| failed(file, e))?;
        let mut inner = Tokenizer::new(model);
        inner
            .with_normalizer(Some(BertNormalizer::new(
                true,
                options.tokenize_chinese_chars,
                options.strip_accents,
                options.do_lower_case,
            )))
            .with_pre_tokenizer(Some(BertPreTokenizer))
            .with_decoder(Some(WordPieceDecoder::default()))
            .with_post_processor(Some(BertProcessing::new(
                ("[SEP]".into(), separator),
                ("[CLS]".into(), class),
            )));
        let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
        let special = special.map(|token| AddedToken::from(token, true));
        inner.add_special_tokens(&special);
        Self::new(inner, file)
    }

    fn new(mut inner: Tokenizer, file: &Path) -> Result<Self> {
        inner
            .with_truncation(None)
            .map_err(|e| failed(file, e))?
            .with_padding(None);
        let id = |names: [&str; 2]| {
            let found = names.iter().find_map(|name| inner.token_to_id(name));
            found.ok_or_else(|| failed(file, format!("has neither {} nor {}", names[0], names[1])))
        };
        let special = SpecialIds {
            pad: id(["[PAD]", "<pad>"])?,
            unknown: id(["[UNK]", "<unk>"])?,
            class: id(["[CLS]", "<s>"])?,
            separator: id(["[SEP]", "</s>"])?,
            mask: id(["[MASK]", "<mask>"])?,
        };
        let frame = inner.get_post_processor().cloned();
        inner.with_post_processor(None::<PostProcessorWrapper>);
        Ok(Self {
            inner,
            frame,
            special,
            files: vec![],
        })
    }

    /// The special tokens' ids.
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// Number of ids, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token of an id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Ids to text, special tokens left out.
    ///
    /// # Errors
    /// A tokenizer whose decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let text = self.inner.decode(ids, true);
        text.map_err(|e| input_error("ids", format!("{ids:?}"), e.to_string()))
    }

    /// `[CLS] a [SEP]`, or `[CLS] a [SEP] b [SEP]`, cut to `max_length` tokens where that is given, the longer text first.
    ///
    /// # Errors
    /// A `max_length` that does not hold the special tokens.
    pub fn encode(&self, a: &str, b: Option<&str>, max_length: Option<usize>) -> Result<Encoded> {
        let wrong = |e: tokenizers::Error| input_error("text", format!("{a:?}"), e.to_string());
        let part = |text: &str| self.inner.encode_char_offsets(text, false).map_err(wrong);
        let (mut first, mut second) = (part(a)?, b.map(part).transpose()?);
        if let Some(most) = max_length {
            let added = self.frame.as_ref();
            let added = added.map_or(0, |p| p.added_tokens(b.is_some()));
            let room = most.checked_sub(added).ok_or_else(|| {
                input_error(
                    "max_length",
                    most,
                    format!("expected at least the {added} special tokens"),
                )
            })?;
            let how = TruncationParams {
                direction: TruncationDirection::Right,
                max_length: room,
                strategy: TruncationStrategy::LongestFirst,
                stride: 0,
            };
            (first, second) = truncate_encodings(first, second, &how).map_err(wrong)?;
        }
        let found = match &self.frame {
            Some(frame) => frame.process(first, second, true),
            None => self.inner.post_process(first, second, true),
        };
        let found = found.map_err(wrong)?;
        Ok(Encoded {
            ids: found.get_ids().to_vec(),
            type_ids: found.get_type_ids().to_vec(),
            tokens: found.get_tokens().to_vec(),
            special: found
                .get_special_tokens_mask()
                .iter()
                .map(|s| *s == 1)
                .collect(),
            offsets: found.get_offsets().to_vec(),
        })
    }

    /// Texts or pairs as one batch, padded on the right to the longest.
    ///
    /// # Errors
    /// No texts, and as [`BertTokenizer::encode`].
    pub fn batch(
        &self,
        texts: &[(&str, Option<&str>)],
        max_length: Option<usize>,
    ) -> Result<EncoderInput> {
        let rows = texts.iter().map(|(a, b)| self.encode(a, *b, max_length));
        let rows: Vec<Encoded> = rows.collect::<Result<_>>()?;
        collate(&rows, self.special.pad)
    }

    /// Writes the files it was read from into a model folder; for one that was made, `tokenizer.json` and
    /// `tokenizer_config.json`. Python's `AutoTokenizer` reads either.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.save_for(dir, None)
    }

    /// The same for a model that takes inputs of at most `longest` tokens.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_for(&self, dir: &Path, longest: Option<usize>) -> Result<()> {
        for (name, bytes) in &self.files {
            pretrained::write_atomic(&dir.join(name), bytes)?;
        }
        if !self.files.is_empty() {
            return Ok(());
        }
        let file = dir.join(TOKENIZER_FILE);
        let mut whole = self.inner.clone();
        whole.with_post_processor(self.frame.clone());
        let json = whole.to_string(true).map_err(|e| failed(&file, e))?;
        pretrained::write_atomic(&file, json.as_bytes())?;
        let name = |id: u32| self.token(id).unwrap_or_default();
        let special = self.special;
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": name(special.pad), "unk_token": name(special.unknown),
            "cls_token": name(special.class), "sep_token": name(special.separator),
            "mask_token": name(special.mask),
        });
        if let Some(longest) = longest {
            config["model_max_length"] = longest.into();
        }
        let text = format!("{config:#}\n");
        pretrained::write_atomic(&dir.join(TOKENIZER_CONFIG_FILE), text.as_bytes())?;
        Ok(())
    }
}

/// Rows as one batch, padded on the right with `pad`, segment 0 and mask 0.
///
/// # Errors
/// No rows.
pub fn collate(rows: &[Encoded], pad: u32) -> Result<EncoderInput> {
    let ids: Vec<&[u32]> = rows.iter().map(|row| &row.ids[..]).collect();
    let input = EncoderInput::from_rows(&ids, pad)?;
    let length = input.length();
    let types = rows.iter().flat_map(|row| {
        let types = row.type_ids.iter().map(|t| i64::from(*t));
        types.chain(std::iter::repeat_n(0, length - row.ids.len()))
    });
    let types: Vec<i64> = types.collect();
    match types.iter().any(|t| *t != 0) {
        true => input.with_token_types(types),
        false => Ok(input),
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|source| {
        pretrained::Error::Io {
            path: PathBuf::from(file),
            action: "read",
            source,
        }
        .into()
    })
}
