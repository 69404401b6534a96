//! A small WordPiece vocabulary from a text, for models that are trained from nothing.

use crate::error::{Result, input_error};
use crate::tokenizer::TokenizerOptions;
use std::collections::{BTreeMap, BTreeSet};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

/// The special tokens, in the order of their ids.
pub const SPECIAL_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// A vocabulary of at most `size` entries: the special tokens; every character, at the beginning of a word and inside one;
/// the most frequent words; and for a quarter of the rest the most frequent endings of the words left out. Equal texts
/// give equal vocabularies.
///
/// # Errors
/// A `size` that does not hold the text's characters.
pub fn train_vocabulary(text: &str, size: usize, options: TokenizerOptions) -> Result<Vec<String>> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for line in text.lines() {
        for word in words(line, options)? {
            *counts.entry(word).or_default() += 1;
        }
    }
    let characters: BTreeSet<char> = counts.keys().flat_map(|w| w.chars()).collect();
    let mut all: Vec<String> = SPECIAL_TOKENS.map(str::to_owned).to_vec();
    all.extend(characters.iter().map(char::to_string));
    all.extend(characters.iter().map(|c| format!("##{c}")));
    let Some(room) = size.checked_sub(all.len()) else {
        return Err(input_error(
            "vocab_size",
            size,
            format!("expected at least {} for the text's characters", all.len()),
        ));
    };
    let long = |w: &&(&String, &u64)| w.0.chars().nth(1).is_some();
    let mut words: Vec<(&String, &u64)> = counts.iter().collect();
    // The map is in the order of the words, and the sort is stable: ties go by the alphabet.
    words.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    let words: Vec<(&String, &u64)> = words.iter().filter(long).copied().collect();
    let whole = words.len().min(room - room / 4);
    all.extend(words[..whole].iter().map(|(w, _)| (*w).clone()));

    let mut endings: BTreeMap<String, u64> = BTreeMap::new();
    for (word, n) in &words[whole..] {
        let letters: Vec<char> = word.chars().collect();
        for length in 2..letters.len().min(6) {
            let end: String = letters[letters.len() - length..].iter().collect();
            *endings.entry(format!("##{end}")).or_default() += **n * length as u64;
        }
    }
    let mut endings: Vec<(String, u64)> = endings.into_iter().collect();
    endings.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let left = size - all.len();
    all.extend(endings.into_iter().take(left).map(|(end, _)| end));
    Ok(all)
}

/// The words of a line as WordPiece sees them.
fn words(line: &str, options: TokenizerOptions) -> Result<Vec<String>> {
    let wrong = |e: tokenizers::Error| input_error("text", format!("{line:?}"), e.to_string());
    let normalizer = BertNormalizer::new(
        true,
        options.tokenize_chinese_chars,
        options.strip_accents,
        options.do_lower_case,
    );
    let mut normalized = NormalizedString::from(line);
    normalizer.normalize(&mut normalized).map_err(wrong)?;
    let mut split = PreTokenizedString::from(normalized);
    BertPreTokenizer.pre_tokenize(&mut split).map_err(wrong)?;
    let words = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
    Ok(words.into_iter().map(|(w, _, _)| w.to_owned()).collect())
}
