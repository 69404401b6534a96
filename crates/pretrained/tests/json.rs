//! The sentences a user reads about a recipe or a configuration that does not fit.

use std::path::Path;

use pretrained::{Error, parse_json, parse_value, read_json};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // the fields are there to be misspelt
struct Recipe {
    model: Model,
    #[serde(default)]
    training: Option<Training>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Model {
    hidden_size: usize,
    #[serde(default)]
    nb_heads: usize,
    #[serde(default)]
    dropout: f64,
    #[serde(default)]
    spans: Vec<u32>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Training {
    optimizer: Optimizer,
    #[serde(default)]
    tie: bool,
}

#[derive(Deserialize, Debug)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
#[allow(dead_code)]
enum Optimizer {
    Sgd { lr: f64, momentum: Option<f64> },
    AdagradGradClip { lr: f64, grad_clip: f64 },
}

fn complaint(text: &str) -> String {
    let error = parse_json::<Recipe>(text, Path::new("r.json")).expect_err("it does not fit");
    let message = error.to_string();
    message
        .strip_prefix("r.json: ")
        .expect("the file comes first")
        .to_string()
}

#[test]
fn each_mistake_is_named_with_its_place() {
    let cases = [
        (
            r#"{"model": {"hiden_size": 8}}"#,
            "model.hiden_size: unknown key; did you mean `hidden_size`?",
        ),
        (
            r#"{"model": {"hidden_size": 8, "colour": 1}}"#,
            "model.colour: unknown key; the keys here are `hidden_size`, `nb_heads`, `dropout`, `spans`",
        ),
        (
            r#"{"modle": {}}"#,
            "modle: unknown key; did you mean `model`?",
        ),
        (
            r#"{"model": {}}"#,
            "model.hidden_size: missing, and it has no default",
        ),
        (r#"{}"#, "model: missing, and it has no default"),
        (
            r#"{"model": {"hidden_size": 8, "hidden_size": 8}}"#,
            "model.hidden_size: given twice, maybe under two spellings",
        ),
        (
            r#"{"model": {"hidden_size": "big"}}"#,
            "model.hidden_size: expected a whole number, 0 or more, found the string \"big\"",
        ),
        (
            r#"{"model": {"hidden_size": "a, expected b"}}"#,
            "model.hidden_size: expected a whole number, 0 or more, found the string \"a, expected b\"",
        ),
        (
            r#"{"model": {"hidden_size": -8}}"#,
            "model.hidden_size: expected a whole number, 0 or more, found -8",
        ),
        (
            r#"{"model": {"hidden_size": 8.5}}"#,
            "model.hidden_size: expected a whole number, 0 or more, found 8.5",
        ),
        (
            r#"{"model": {"hidden_size": null}}"#,
            "model.hidden_size: expected a whole number, 0 or more, found null",
        ),
        (
            r#"{"model": {"hidden_size": 8, "spans": [1, 2, true]}}"#,
            "model.spans[2]: expected a whole number, 0 or more, found true",
        ),
        (
            r#"{"model": {"hidden_size": 8, "spans": {}}}"#,
            "model.spans: expected a list, found an object",
        ),
        (r#"{"model": 8}"#, "model: expected an object, found 8"),
        (
            r#"{"model": {"hidden_size": 8}, "training": {"optimizer": {"name": "sdg", "lr": 1}}}"#,
            "training.optimizer.name: unknown value `sdg`; did you mean `sgd`?",
        ),
        (
            r#"{"model": {"hidden_size": 8}, "training": {"optimizer": {"name": "sgd", "lr": 1, "momentun": 0.9}}}"#,
            "training.optimizer.momentun: unknown key; did you mean `momentum`?",
        ),
        (
            r#"{"model": {"hidden_size": 8}, "training": {"optimizer": {"lr": 1}}}"#,
            "training.optimizer.name: missing, and it has no default",
        ),
        (
            r#"{"model": {"hidden_size": 8}, "training": {"optimizer": {"name": "sgd", "lr": 1}, "tie": 1}}"#,
            "training.tie: expected true or false, found 1",
        ),
        (
            "{\n \"model\": {\n  \"hidden_size\": 8,\n }\n}",
            "line 4, column 2: trailing comma",
        ),
        (
            r#"{"model": "#,
            "line 1, column 10: EOF while parsing a value",
        ),
        (
            r#"{"model": {"hidden_size": 8}} x"#,
            "line 1, column 31: trailing characters",
        ),
        ("", "line 1, column 0: EOF while parsing a value"),
    ];
    for (text, expected) in cases {
        assert_eq!(complaint(text), expected, "for {text}");
    }
}

#[test]
fn a_section_is_named_by_its_place_in_the_file() {
    let wrong = json!({"hidden_size": 8, "nb_head": 2});
    let error = parse_value::<Model>(wrong, Path::new("r.json"), "model").expect_err("misspelt");
    assert_eq!(
        error.to_string(),
        "r.json: model.nb_head: unknown key; did you mean `nb_heads`?"
    );
    let Error::Json { at, hint, .. } = error else {
        panic!("a JSON error")
    };
    assert_eq!((at.as_str(), hint.is_some()), ("model.nb_head", true));

    let error = parse_value::<Vec<u32>>(json!([1, "x"]), Path::new("r.json"), "data.spans")
        .expect_err("a string");
    assert!(
        error
            .to_string()
            .starts_with("r.json: data.spans[1]: expected"),
        "{error}"
    );
    let error =
        parse_value::<Model>(json!(null), Path::new("r.json"), "model").expect_err("nothing");
    assert_eq!(
        error.to_string(),
        "r.json: model: expected an object, found null"
    );
    let model = parse_value::<Model>(json!({"hidden_size": 8}), Path::new("r.json"), "model")
        .expect("fits");
    assert_eq!(model.hidden_size, 8);
}

#[test]
fn files_are_read_or_the_reason_is_given() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.json");
    let error = read_json::<Model>(&path).expect_err("absent").to_string();
    assert!(
        error.contains("cannot read") && error.contains("config.json"),
        "{error}"
    );

    std::fs::write(&path, "\u{feff}{\"hidden_size\": 8}").expect("written");
    assert_eq!(read_json::<Model>(&path).expect("fits").hidden_size, 8);

    std::fs::write(&path, b"{\"hidden_size\": \xff}").expect("written");
    let error = read_json::<Model>(&path).expect_err("not text").to_string();
    assert!(error.contains("byte 16 is not UTF-8"), "{error}");
}

#[test]
fn messages_stay_short_whatever_the_file_holds() {
    let text = format!("{{\"model\": {{\"{}\": 1}}}}", "k".repeat(100_000));
    assert!(complaint(&text).len() < 2000);
    let deep = "[".repeat(100_000);
    assert!(complaint(&format!("{{\"model\": {deep}")).len() < 2000);
}
