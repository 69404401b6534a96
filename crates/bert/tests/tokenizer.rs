//! Tokenizers from both kinds of file, casing, truncation, and vocabularies made from a text.

use bert::{BertTokenizer, SPECIAL_TOKENS, TokenizerOptions, train_vocabulary};
use std::fs;
use std::path::Path;

const WORDS: [&str; 9] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "Cat",
];

fn vocab(options: TokenizerOptions) -> BertTokenizer {
    BertTokenizer::from_vocab(&WORDS, options, "vocab.txt".as_ref()).unwrap()
}

#[test]
fn both_files_give_the_same_and_casing_is_honoured() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("vocab.txt"), WORDS.join("\n") + "\n").unwrap();
    let lower = BertTokenizer::from_folder(dir.path()).unwrap();
    assert_eq!(
        lower.encode("The Cats", None, None).unwrap().ids,
        [2, 5, 6, 7, 3]
    );
    fs::write(
        dir.path().join("tokenizer_config.json"),
        r#"{ "do_lower_case": false, "model_max_length": 512, "tokenizer_class": "BertTokenizer" }"#,
    )
    .unwrap();
    let cased = BertTokenizer::from_folder(dir.path()).unwrap();
    assert_eq!(
        cased.encode("the Cats", None, None).unwrap().ids,
        [2, 5, 8, 7, 3]
    );
    assert_eq!(cased.vocab_size(), 9);

    let other = tempfile::tempdir().unwrap();
    cased.save(other.path()).unwrap();
    let again = BertTokenizer::from_folder(other.path()).unwrap();
    for text in ["the Cats", "[MASK] cat", "nothing known", ""] {
        assert_eq!(
            again.encode(text, Some("cat"), None).unwrap(),
            cased.encode(text, Some("cat"), None).unwrap()
        );
    }
}

#[test]
fn truncation_and_padding_of_the_file_are_switched_off() {
    let dir = tempfile::tempdir().unwrap();
    vocab(TokenizerOptions::default()).save(dir.path()).unwrap();
    let file = dir.path().join("tokenizer.json");
    let mut json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    json["truncation"] = serde_json::json!({ "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 });
    json["padding"] = serde_json::json!({
        "strategy": { "Fixed": 12 }, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"
    });
    fs::write(&file, json.to_string()).unwrap();
    let tokenizer = BertTokenizer::from_json_file(&file).unwrap();
    let found = tokenizer.encode("the cat the cat", None, None).unwrap();
    assert_eq!(found.ids, [2, 5, 6, 5, 6, 3]);
}

#[test]
fn pairs_segments_and_limits() {
    let tokenizer = vocab(TokenizerOptions::default());
    let pair = tokenizer.encode("the cat", Some("cats"), None).unwrap();
    assert_eq!(pair.ids, [2, 5, 6, 3, 6, 7, 3]);
    assert_eq!(pair.type_ids, [0, 0, 0, 0, 1, 1, 1]);
    assert_eq!(
        tokenizer
            .encode("the cat the cat", Some("cat"), Some(6))
            .unwrap()
            .ids
            .len(),
        6
    );
    assert_eq!(
        tokenizer.encode("the cat", None, Some(2)).unwrap().ids,
        [2, 3]
    );
    assert!(
        tokenizer
            .encode("the cat", None, Some(1))
            .unwrap_err()
            .to_string()
            .contains("max_length is 1")
    );
    assert_eq!(tokenizer.encode("", None, None).unwrap().ids, [2, 3]);
    let batch = tokenizer
        .batch(&[("the cat", None), ("cat", Some("the"))], None)
        .unwrap();
    assert_eq!((batch.batch(), batch.length()), (2, 5));
    assert_eq!(
        batch.attention_mask().unwrap()[..5],
        [true, true, true, true, false]
    );
    assert_eq!(batch.token_type_ids().unwrap()[5..], [0, 0, 0, 1, 1]);
    assert!(tokenizer.batch(&[], None).is_err());
}

#[test]
fn a_vocabulary_without_special_tokens_is_refused() {
    let error =
        BertTokenizer::from_vocab(&["a", "b"], TokenizerOptions::default(), "v.txt".as_ref());
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("v.txt: has no entry [SEP]")
    );
    let empty = tempfile::tempdir().unwrap();
    let error = BertTokenizer::from_folder(empty.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("neither tokenizer.json, nor vocab.txt"),
        "{error}"
    );
}

#[test]
fn a_made_vocabulary_spells_its_text() {
    let text = "The whale, the whale! Sailing sailors sailed; mailing mailed.\nA wail.";
    let words = train_vocabulary(text, 60, TokenizerOptions::default()).unwrap();
    assert_eq!(words[..5], SPECIAL_TOKENS);
    assert!(words.len() <= 60);
    assert!(
        words.contains(&"whale".to_owned())
            && words.contains(&"##z".to_owned()) == text.contains('z')
    );
    assert_eq!(
        words,
        train_vocabulary(text, 60, TokenizerOptions::default()).unwrap()
    );
    let tokenizer =
        BertTokenizer::from_vocab(&words, TokenizerOptions::default(), "made".as_ref()).unwrap();
    let ids = tokenizer.encode(text, None, None).unwrap().ids;
    assert!(!ids.contains(&tokenizer.special().unknown));
    assert!(train_vocabulary(text, 20, TokenizerOptions::default()).is_err());
}

/// A byte-level vocabulary as RoBERTa's: two letters are joined, a blank is `Ġ`.
fn byte_level(dir: &Path, config: &str) {
    let tokens = [
        "<s>", "<pad>", "</s>", "<unk>", "a", "b", "ab", "\u{120}", "\u{120}a", "<mask>",
    ];
    let ids = tokens.iter().enumerate();
    let vocab: serde_json::Map<_, _> = ids.map(|(i, t)| ((*t).to_owned(), i.into())).collect();
    fs::write(
        dir.join("vocab.json"),
        serde_json::Value::from(vocab).to_string(),
    )
    .unwrap();
    fs::write(dir.join("merges.txt"), "#version: 0.2\na b\n\u{120} a\n").unwrap();
    fs::write(dir.join("tokenizer_config.json"), config).unwrap();
}

#[test]
fn byte_level_vocabularies_give_robertas_form_and_travel() {
    let dir = tempfile::tempdir().unwrap();
    byte_level(dir.path(), "{}");
    let tokenizer = BertTokenizer::from_folder(dir.path()).unwrap();
    let pair = tokenizer.encode("ab a", Some("b"), None).unwrap();
    assert_eq!(pair.ids, [0, 6, 8, 2, 2, 5, 2]);
    assert_eq!(pair.type_ids, [0; 7], "RoBERTa has one segment");
    assert_eq!(pair.offsets[1..3], [(0, 2), (3, 4)]);
    // The blank before a mask belongs to it, unless the folder says otherwise.
    assert_eq!(
        tokenizer.encode("ab <mask>", None, None).unwrap().ids,
        [0, 6, 9, 2]
    );
    let special = tokenizer.special();
    assert_eq!((special.pad, special.mask, special.class), (1, 9, 0));
    assert_eq!(
        tokenizer
            .encode("ab ab ab", Some("ab"), Some(6))
            .unwrap()
            .ids
            .len(),
        6
    );

    let other = tempfile::tempdir().unwrap();
    tokenizer.save(other.path()).unwrap();
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
        let read = |dir: &Path| fs::read(dir.join(name)).unwrap();
        assert_eq!(read(dir.path()), read(other.path()), "{name}");
    }
    byte_level(
        dir.path(),
        r#"{ "mask_token": { "lstrip": false }, "add_prefix_space": true }"#,
    );
    let strict = BertTokenizer::from_folder(dir.path()).unwrap();
    assert_eq!(
        strict.encode("a <mask>", None, None).unwrap().ids,
        [0, 8, 7, 9, 2]
    );

    fs::write(dir.path().join("merges.txt"), "#version: 0.2\na c\n").unwrap();
    let error = BertTokenizer::from_folder(dir.path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("vocab.json"), "{error}");
    fs::remove_file(dir.path().join("merges.txt")).unwrap();
    let error = BertTokenizer::from_folder(dir.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("merges.txt") && error.contains("vocab.txt"),
        "{error}"
    );
}
