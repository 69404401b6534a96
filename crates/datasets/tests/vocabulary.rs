//! Tokens and ids: formats, orders, unknown tokens, `vocab.json`.

use datasets::{
    CorpusSpec, Error, IdOrder, TextFormat, TokenUnit, Vocabulary, load, prepared_text,
};

fn first(format: TextFormat, text: &[u8]) -> (Vocabulary, Vec<u32>) {
    Vocabulary::from_train(format, text, IdOrder::FirstAppearance, "train.txt").unwrap()
}

/// A few thousand texts from a small alphabet that has every kind of white space and line end.
fn texts() -> impl Iterator<Item = String> {
    let alphabet = [
        'a', 'b', '_', ' ', ' ', '\n', '\r', '\t', '\u{1c}', '\u{a0}', 'é', '7',
    ];
    (0u64..3000).map(move |seed| {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let length = seed % 9;
        (0..length)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                alphabet[(state >> 33) as usize % alphabet.len()]
            })
            .collect()
    })
}

/// The direct reading of raw text8 and enwik8 gives what the published way gives: prepare, then split lines into words.
#[test]
fn raw_texts_give_the_ids_of_prepared_ones() {
    for text in texts() {
        for format in [TextFormat::Enwik8, TextFormat::Text8] {
            let prepared = prepared_text(format, text.as_bytes(), "t").unwrap();
            let (raw, raw_ids) = first(format, text.as_bytes());
            let (words, word_ids) = first(TextFormat::Words, prepared.as_bytes());
            assert_eq!(raw_ids, word_ids, "{format:?} {text:?}");
            assert_eq!(raw.names(), words.names(), "{format:?} {text:?}");
        }
    }
}

#[test]
fn words_are_split_as_python_splits_them() {
    let (vocabulary, ids) = first(
        TextFormat::Words,
        "a\u{1c}b\u{a0}c\r\nd\re \n\nf".as_bytes(),
    );
    assert_eq!(vocabulary.names(), ["a", "b", "c", "<eos>", "d", "e", "f"]);
    assert_eq!(ids, [0, 1, 2, 3, 4, 3, 5, 3, 3, 6, 3]);
    assert!(first(TextFormat::Words, b"").1.is_empty());
}

#[test]
fn frequent_tokens_come_first_and_ties_are_reversed() {
    let (vocabulary, ids) =
        Vocabulary::from_train(TextFormat::Chars, b"abccb", IdOrder::Count, "t").unwrap();
    assert_eq!(vocabulary.names(), ["c", "b", "a"]);
    assert_eq!(ids, [2, 1, 0, 0, 1]);
}

#[test]
fn texts_survive_encoding_and_decoding() {
    for text in texts() {
        for format in [TextFormat::Bytes, TextFormat::Chars] {
            let (vocabulary, ids) = first(format, text.as_bytes());
            assert_eq!(vocabulary.decode(&ids).unwrap(), text);
        }
    }
    let (words, ids) = first(TextFormat::Words, b"the cat\n\n sat \n");
    assert_eq!(words.decode(&ids).unwrap(), "the cat\n\nsat\n");
    let (text8, ids) = first(TextFormat::Text8, b" the cat");
    assert_eq!(text8.decode(&ids).unwrap(), "the cat\n");
    let every: Vec<u8> = (0..=255).collect();
    let (bytes, ids) = first(TextFormat::Bytes, &every);
    assert_eq!(bytes.decode_bytes(&ids).unwrap(), every);
    assert!(matches!(
        bytes.decode(&[256]),
        Err(Error::TokenId { id: 256, len: 256 })
    ));
}

#[test]
fn unknown_tokens_are_named_with_file_place_and_remedy() {
    let message = |format, train: &str, valid: &str| {
        let (vocabulary, _) = first(format, train.as_bytes());
        vocabulary
            .encode(valid.as_bytes(), "valid.txt")
            .unwrap_err()
            .to_string()
    };
    let words = message(TextFormat::Words, "the cat\n", "the\nthe dog");
    assert!(
        words.contains("valid.txt: unknown token \"dog\" at position 3 (byte 8)"),
        "{words}"
    );
    assert!(words.contains("<unk>"), "{words}");
    let bytes = message(TextFormat::Bytes, "ab", "a\u{7}");
    assert!(
        bytes.contains("unknown token 0x07 at position 1 (byte 1)"),
        "{bytes}"
    );
    assert!(bytes.contains("\"all_bytes\": true"), "{bytes}");
    let chars = message(TextFormat::Chars, "ab", "aé");
    assert!(
        chars.contains("unknown token \"é\" at position 1 (byte 1)"),
        "{chars}"
    );
    // The `<eos>` that an open last line gets stands at the end of the file.
    let no_eos =
        Vocabulary::from_json(r#"{"format": "enwik8", "tokens": [97]}"#, "vocab.json").unwrap();
    let eos = no_eos.encode(b"aa", "valid.txt").unwrap_err().to_string();
    assert!(
        eos.contains("unknown token 0x0a at position 2 (byte 2)"),
        "{eos}"
    );
}

#[test]
fn text_that_is_not_utf8_is_refused_with_its_place() {
    for format in [TextFormat::Chars, TextFormat::Words, TextFormat::Text8] {
        let error =
            Vocabulary::from_train(format, b"ab\xff", IdOrder::Count, "train.txt").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("train.txt: not valid UTF-8 at byte 2"),
            "{error}"
        );
    }
}

#[test]
fn prompts_have_no_eos_of_their_own() {
    let (words, _) = first(TextFormat::Words, b"the cat\n");
    assert_eq!(words.encode_prompt("the cat").unwrap(), [0, 1]);
    assert_eq!(words.encode_prompt("the cat\n").unwrap(), [0, 1, 2]);
    let (text8, _) = first(TextFormat::Text8, b"the cat");
    let prompt = text8.encode_prompt("the ").unwrap();
    assert_eq!(text8.decode(&prompt).unwrap(), "the ");
    let (enwik8, _) = first(TextFormat::Enwik8, b"ab\n");
    assert_eq!(enwik8.encode_prompt("ab").unwrap(), [0, 1]);
    assert!(enwik8.encode_prompt("").unwrap().is_empty());
    assert!(
        enwik8
            .encode_prompt("x")
            .unwrap_err()
            .to_string()
            .starts_with("prompt: unknown token \"x\"")
    );
}

#[test]
fn completed_byte_vocabularies_keep_their_ids() {
    let (mut vocabulary, ids) = first(TextFormat::Bytes, b"zy");
    vocabulary.complete_bytes();
    assert_eq!(vocabulary.len(), 256);
    assert_eq!(vocabulary.encode(b"zy", "t").unwrap(), ids);
    assert_eq!(vocabulary.encode(&[0, 255], "t").unwrap(), [2, 255]);
    let (mut words, _) = first(TextFormat::Words, b"a");
    words.complete_bytes();
    assert_eq!(words.len(), 2);
}

#[test]
fn vocab_json_is_exact_and_readable() {
    let every: Vec<u8> = (0..=255).rev().collect();
    for (format, text) in [
        (TextFormat::Bytes, every.clone()),
        (TextFormat::Enwik8, every),
        (TextFormat::Chars, "aé\"\\\n\u{1}".into()),
        (TextFormat::Words, "the „cat“\n".into()),
        (TextFormat::Text8, b"a b".to_vec()),
    ] {
        let (vocabulary, _) = first(format, &text);
        let json = vocabulary.to_json();
        assert_eq!(
            Vocabulary::from_json(&json, "vocab.json").unwrap(),
            vocabulary
        );
        assert_eq!(vocabulary.unit(), format.unit());
    }
    let (words, _) = first(TextFormat::Words, "the „cat“\n".as_bytes());
    assert!(words.to_json().contains("\"„cat“\""));
}

#[test]
fn wrong_vocab_json_is_refused_with_its_place() {
    let message = |json: &str| {
        Vocabulary::from_json(json, "vocab.json")
            .unwrap_err()
            .to_string()
    };
    for (json, part) in [
        ("{", "vocab.json: EOF"),
        (r#"{"format": "bytes", "tokens": [1, 300]}"#, "vocab.json"),
        (
            r#"{"format": "bytes", "tokens": [1, "a"]}"#,
            "tokens[1]: expected a number from 0 to 255",
        ),
        (
            r#"{"format": "words", "tokens": ["a", ""]}"#,
            "tokens[1]: expected a string",
        ),
        (
            r#"{"format": "words", "tokens": ["a", "b", "a"]}"#,
            "tokens[2]: \"a\" is tokens[0] already",
        ),
        (
            r#"{"format": "words", "tokens": [], "more": 1}"#,
            "unknown field `more`",
        ),
        (
            r#"{"format": "letters", "tokens": []}"#,
            "unknown variant `letters`",
        ),
    ] {
        assert!(message(json).contains(part), "{json}: {}", message(json));
    }
}

#[test]
fn units_name_their_metric() {
    assert_eq!(TextFormat::Enwik8.unit().metric(), "bits_per_byte");
    assert_eq!(TextFormat::Text8.unit().metric(), "bits_per_character");
    assert_eq!(TextFormat::Words.unit().metric(), "perplexity");
    assert_eq!(TokenUnit::Byte.from_nats(2.0 * std::f64::consts::LN_2), 2.0);
    assert!((TokenUnit::Word.from_nats(8f64.ln()) - 8.0).abs() < 1e-12);
}

#[test]
fn pieces_are_cut_greedily_and_need_a_file() {
    let vocabulary = Vocabulary::from_pieces(["wh", "whale", " whale", "a", "wh"]);
    // The 256 bytes, and the pieces of two bytes or more, once.
    assert_eq!(vocabulary.len(), 256 + 3);
    assert_eq!(
        vocabulary.encode(b"whale whalewh", "t").unwrap(),
        [257, 258, 256]
    );
    assert_eq!(vocabulary.unit().metric(), "subword_perplexity");
    for text in ["what a whale", "größer ☃", ""] {
        let ids = vocabulary.encode(text.as_bytes(), "t").unwrap();
        assert_eq!(vocabulary.decode(&ids).unwrap(), text);
    }

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("vocab.json"), vocabulary.to_json()).unwrap();
    std::fs::write(dir.path().join("a.txt"), "a whale and a whale. ".repeat(50)).unwrap();
    let spec = |json: &str| serde_json::from_str::<CorpusSpec>(json).unwrap();
    let corpus = load(
        &spec(r#"{ "path": "a.txt", "format": "subwords", "vocab": "vocab.json" }"#),
        dir.path(),
    )
    .unwrap();
    assert_eq!(corpus.vocabulary, vocabulary);
    assert!(corpus.train.tokens.len() < corpus.train.bytes as usize * 3 / 4);
    let text = corpus.vocabulary.decode(&corpus.test.tokens).unwrap();
    assert_eq!(text.len() as u64, corpus.test.bytes);

    let message = spec(r#"{ "path": "a.txt", "format": "subwords" }"#)
        .validate()
        .unwrap_err()
        .to_string();
    assert!(message.contains("cargo xtask data vocab"), "{message}");
    let message = Vocabulary::from_train(TextFormat::Subwords, b"a", IdOrder::Count, "t")
        .unwrap_err()
        .to_string();
    assert!(message.contains("vocab"), "{message}");
    let incomplete = r#"{ "format": "subwords", "tokens": [0, 1, "th"] }"#;
    let message = Vocabulary::from_json(incomplete, "v.json")
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("the single byte 2 is missing"),
        "{message}"
    );
}
