//! Preparation, vocabulary, ids and rows against what the published pipeline makes of the same texts.

use std::path::Path;

use datasets::{IdOrder, TextFormat, prepare};
use serde_json::Value;

fn text(input: &Value) -> Vec<u8> {
    match input {
        Value::String(text) => text.clone().into_bytes(),
        bytes => serde_json::from_value(bytes.clone()).expect("a list of byte values"),
    }
}

fn replay(case: &Value) {
    let format: TextFormat = case["kind"].as_str().unwrap().parse().unwrap();
    let order = match case["sort_dict"].as_bool().unwrap() {
        true => IdOrder::Count,
        false => IdOrder::FirstAppearance,
    };
    let splits = ["train", "valid", "test"];
    let texts = splits.map(|split| text(&case["input"][split]));
    let batch = case["batch_size"].as_u64().unwrap() as usize;
    let done = prepare(format, order, texts.each_ref().map(|text| &**text), batch).unwrap();
    for (index, split) in splits.into_iter().enumerate() {
        assert_eq!(
            case["prepared_text"][split],
            done.prepared_text[index].as_str()
        );
        assert_eq!(case["ids"][split], serde_json::json!(done.ids[index]));
    }
    assert_eq!(
        case["vocabulary_in_id_order"],
        serde_json::json!(done.vocabulary.names())
    );
    assert_eq!(
        case["batchified_train"],
        serde_json::json!(done.batchified_train)
    );
}

#[test]
fn published_pipeline_is_reproduced() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/adaptive-span");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("data_") && name.ends_with(".json") {
            replay(&serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap());
            seen += 1;
        }
    }
    assert!(seen >= 3, "only {seen} cases were found");
}
