//! Mutated recipes and mutated files never panic: they work or they are an error.

use burn_formers_tests::{root, tiny, write_tiny};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use trainer::{Architecture, Context, Conversion, Recipe, Step};
use xtask::backend::Backend;
use xtask::registry;

/// A folder with the text of the tiny recipe and a model folder, made once.
struct Place {
    _keep: tempfile::TempDir,
    dir: PathBuf,
    model: PathBuf,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let keep = tempfile::tempdir().expect("a folder");
    let dir = keep.path().to_path_buf();
    let recipe = Recipe::load(&write_tiny(&dir, |_| {}), &[]).expect("a recipe");
    let model = dir.join("model");
    fs::create_dir(&model).expect("a folder");
    let experiment = (architecture().open)(&recipe, &device()).expect("it opens");
    experiment.export(&model).expect("it is exported");
    Place {
        _keep: keep,
        dir,
        model,
    }
});

fn architecture() -> &'static Architecture {
    registry::find("adaptive-span").expect("it is in the table")
}

fn device() -> burn::tensor::Device {
    Backend::Flex.device(&[]).expect("flex")
}

/// Values that break things: of every type, small, or so large that only a careless program would try them.
fn strange() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0u64..40).prop_map(Value::from),
        (-3i64..0).prop_map(Value::from),
        Just(json!(u64::MAX)),
        Just(json!(1u64 << 62)),
        Just(json!(i64::MIN)),
        Just(json!(1e308)),
        Just(json!(-1e308)),
        Just(json!(1e-300)),
        (-2.0f64..2.0).prop_map(Value::from),
        "[a-z_é\u{0}\"]{0,8}".prop_map(Value::from),
        Just(json!("adam")),
        Just(json!("cosine")),
        Just(json!([])),
        Just(json!([3, 2, 1])),
        Just(json!([5, 9, 40])),
        Just(json!({})),
        Just(json!({ "name": "sgd", "lr": 0.1 })),
        Just(json!({ "name": "noam", "hidden_size": 0, "warmup": 0 })),
    ]
}

/// All places of a value, as paths of keys and indices.
fn places(value: &Value, at: &mut Vec<String>, all: &mut Vec<Vec<String>>) {
    if !at.is_empty() {
        all.push(at.clone());
    }
    let mut below = |key: String, value: &Value| {
        at.push(key);
        places(value, at, all);
        at.pop();
    };
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(key, value)| below(key.clone(), value)),
        Value::Array(items) => (0..)
            .zip(items)
            .for_each(|(i, v): (usize, _)| below(i.to_string(), v)),
        _ => {}
    }
}

/// Puts a value into a place; `rename` gives the place another name instead.
fn mutate(root: &mut Value, path: &[String], new: Value, rename: bool) {
    let pointer = |path: &[String]| path.iter().map(|key| format!("/{key}")).collect::<String>();
    let Some((last, above)) = path.split_last() else {
        return;
    };
    match root.pointer_mut(&pointer(above)) {
        Some(Value::Object(map)) if rename => {
            let value = map.remove(last).unwrap_or(Value::Null);
            map.insert(format!("{last}x"), value);
        }
        Some(Value::Object(map)) => drop(map.insert(last.clone(), new)),
        Some(Value::Array(items)) => {
            if let Some(place) = last.parse().ok().and_then(|i: usize| items.get_mut(i)) {
                *place = new;
            }
        }
        _ => {}
    }
}

/// Opens a recipe and does a step. Whatever it says is fine, as long as it says it.
fn open_and_step(value: Value, dir: &Path) -> trainer::Result<()> {
    let recipe = Recipe::from_value(value, &dir.join("tiny.json"), &[])?;
    recipe.clock()?;
    let mut experiment = (architecture().open)(&recipe, &device())?;
    let mut cx = Context::detached();
    experiment.train_step(Step::new(recipe.seed, 0, 0, 0), &mut cx)?;
    Ok(())
}

/// Damages bytes: flips some, cuts the end, or puts an extreme length somewhere.
fn damage(bytes: &mut Vec<u8>, at: usize, kind: u8, with: u8) {
    let at = at % bytes.len().max(1);
    match kind % 4 {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= with | 1,
        2 => {
            let end = (at + 8).min(bytes.len());
            bytes[at..end].fill(with);
        }
        _ => bytes.splice(at..at, vec![with; 9]).for_each(drop),
    }
}

#[test]
fn the_recipe_that_is_mutated_works() {
    assert!(open_and_step(tiny(), &PLACE.dir).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_recipes_never_panic(
        mutations in proptest::collection::vec((any::<prop::sample::Index>(), strange(), 0u8..8), 1..4),
    ) {
        let mut value = tiny();
        for (place, new, kind) in mutations {
            let mut all = Vec::new();
            places(&value, &mut Vec::new(), &mut all);
            if !all.is_empty() {
                let path: &Vec<String> = place.get(&all);
                mutate(&mut value, path, new, kind == 0);
            }
        }
        let shown = value.to_string();
        let result = xtask::panics::caught(|| open_and_step(value, &PLACE.dir));
        prop_assert!(result.is_ok(), "{:?} for {}", result.err(), shown);
    }

    #[test]
    fn mutated_recipe_texts_never_panic(at in any::<usize>(), kind in any::<u8>(), with in any::<u8>()) {
        let mut bytes = tiny().to_string().into_bytes();
        damage(&mut bytes, at, kind, with);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let result = xtask::panics::caught(|| {
            pretrained::parse_json::<Value>(&text, Path::new("tiny.json"))
                .map_err(trainer::Error::from)
                .and_then(|value| Recipe::from_value(value, Path::new("tiny.json"), &[]))
                .map(|recipe| recipe.clock().is_ok())
        });
        prop_assert!(result.is_ok(), "{:?} for {}", result.err(), text);
    }

    #[test]
    fn mutated_model_folders_never_panic(
        config in any::<bool>(), at in any::<usize>(), kind in any::<u8>(), with in any::<u8>(),
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        for entry in fs::read_dir(&PLACE.model).expect("a model").flatten() {
            fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copied");
        }
        let file = dir.path().join(if config { "config.json" } else { "model.safetensors" });
        let mut bytes = fs::read(&file).expect("a file");
        // Most damage should hit the header, which is where lengths and names are.
        let at = if config { at } else { at % 600 };
        damage(&mut bytes, at, kind, with);
        fs::write(&file, bytes).expect("written");
        let result = xtask::panics::caught(|| (architecture().load)(dir.path(), &device()).is_ok());
        prop_assert!(result.is_ok(), "{:?}", result.err());
    }

    #[test]
    fn mutated_published_checkpoints_never_panic(
        legacy in any::<bool>(), at in any::<usize>(), kind in any::<u8>(), with in any::<u8>(),
    ) {
        let name = if legacy { "checkpoint_legacy.pt" } else { "checkpoint_zip.pt" };
        let mut bytes = fs::read(root().join("tests/golden/adaptive-span").join(name)).expect("a checkpoint");
        damage(&mut bytes, at, kind, with);
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join(name);
        fs::write(&file, bytes).expect("written");
        let conversion = Conversion { checkpoint: file, ..Conversion::default() };
        let result = xtask::panics::caught(|| (architecture().convert)(&conversion, &device()).is_ok());
        prop_assert!(result.is_ok(), "{:?}", result.err());
    }
}
