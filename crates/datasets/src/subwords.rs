//! Which pieces a text is best made of.

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, TokenizerBuilder, TokenizerImpl,
};

use crate::error::{Error, Result, value};
use crate::vocabulary::Vocabulary;

type Tokenizer =
    TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, DecoderWrapper>;

/// Tokens longer than this (in bytes) are not worth an id.
const LONGEST: usize = 32;

/// A vocabulary of at most `size` tokens: the 256 bytes, and the pieces that byte-pair encoding (Sennrich et al., ACL 2016) merges in a
/// training text. Pieces do not cross from word to word, and a word brings the blank before it. Equal texts give equal vocabularies.
///
/// # Errors
/// A `size` that leaves no room for pieces.
pub fn train_subwords<'a>(
    lines: impl Iterator<Item = &'a str> + Send,
    size: usize,
) -> Result<Vocabulary> {
    if !(257..=1 << 20).contains(&size) {
        return Err(value(
            "size",
            size,
            "from 257 to 2^20: the 256 bytes come first",
        ));
    }
    let wrong = |error: tokenizers::Error| Error::Value {
        key: "subwords".into(),
        found: error.to_string(),
        expected: "a text that pieces can be learnt from".into(),
    };
    let mut tokenizer: Tokenizer = TokenizerBuilder::default()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)))
        .with_post_processor(None)
        .with_decoder(None)
        .build()
        .map_err(wrong)?;
    let mut trainer = BpeTrainer::builder()
        .vocab_size(size)
        .min_frequency(2)
        .show_progress(false)
        .max_token_length(Some(LONGEST))
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, lines).map_err(wrong)?;
    let mut pieces: Vec<(String, u32)> = tokenizer.get_vocab(false).into_iter().collect();
    pieces.sort_by_key(|(_, id)| *id);
    // Merges inside of one character are no text, and are left out.
    let pieces: Vec<String> = pieces
        .iter()
        .filter_map(|(piece, _)| text_of(piece))
        .collect();
    Ok(Vocabulary::from_pieces(pieces.iter().map(String::as_str)))
}

/// The text of a piece whose bytes are spelled as visible characters: those of Latin-1 that can be seen stand for themselves, the others
/// are numbered from U+0100 on.
fn text_of(piece: &str) -> Option<String> {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let hidden: Vec<u8> = (0..=u8::MAX).filter(|byte| !visible(*byte)).collect();
    let byte = |c: char| match u32::from(c) {
        n @ 0..256 => Some(n as u8),
        n => hidden.get(n as usize - 256).copied(),
    };
    let bytes: Vec<u8> = piece.chars().map(byte).collect::<Option<_>>()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_words_become_pieces() {
        let text = "the whale and the sea and the whale\nthe größe of the whale\n".repeat(50);
        let vocabulary = train_subwords(text.lines(), 300).unwrap();
        assert_eq!(vocabulary, train_subwords(text.lines(), 300).unwrap());
        assert!(vocabulary.len() <= 300);
        assert!(vocabulary.id(b" whale").is_some() && vocabulary.id(b" the").is_some());
        let ids = vocabulary.encode(text.as_bytes(), "t").unwrap();
        assert_eq!(vocabulary.decode(&ids).unwrap(), text);
        assert!(ids.len() * 3 < text.len());
        // What training never showed is cut into bytes.
        let other = "Zürich ☃";
        let ids = vocabulary.encode(other.as_bytes(), "t").unwrap();
        assert_eq!(vocabulary.decode(&ids).unwrap(), other);
        // It survives its file.
        let json = vocabulary.to_json();
        assert_eq!(
            Vocabulary::from_json(&json, "vocab.json").unwrap(),
            vocabulary
        );
        assert!(train_subwords(text.lines(), 256).is_err());
    }
}
