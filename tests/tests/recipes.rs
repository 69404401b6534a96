//! Every shipped recipe loads and says what it is for.

use burn_formers_tests::root;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use trainer::{Recipe, RunReader};
use xtask::registry;

/// `configs/ARCHITECTURE/*.json`.
fn recipes() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for folder in fs::read_dir(root().join("configs")).expect("there are recipes") {
        let folder = folder.expect("an entry").path();
        let files = fs::read_dir(&folder).expect("a folder for each architecture");
        all.extend(files.map(|file| file.expect("an entry").path()));
    }
    all.sort();
    all
}

#[test]
fn every_recipe_loads_and_says_what_it_is_for() {
    let recipes = recipes();
    assert!(!recipes.is_empty());
    for path in recipes {
        let name = path.display();
        assert!(
            path.extension().is_some_and(|e| e == "json"),
            "{name} is no recipe"
        );
        let recipe = Recipe::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        let folder = path.parent().and_then(|folder| folder.file_name());
        assert_eq!(
            folder.and_then(|f| f.to_str()),
            Some(recipe.architecture.as_str()),
            "{name}"
        );
        let about = recipe.about.as_deref().unwrap_or_default();
        assert!(
            about.len() >= 20,
            "{name}: `about` must say what it is for and how long it takes"
        );
        recipe
            .clock()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let architecture = registry::find(&recipe.architecture).expect("it is in the table");
        check_schema(&(architecture.schema)(), &recipe);
        let device = xtask::backend::Backend::Flex.device(&[]).expect("flex");
        match (architecture.open)(&recipe, &device) {
            Ok(experiment) => assert!(
                experiment.stages().iter().all(|stage| stage.steps > 0),
                "{name}"
            ),
            // Everything else in a recipe is checked before its data are looked for.
            Err(error) => assert!(is_absent_data(&error), "{name}: {error}"),
        }
    }
}

/// Data that are not on this machine: the message says by which command they come.
fn is_absent_data(error: &trainer::Error) -> bool {
    let text = error.to_string();
    [
        "put the files of",
        "cargo xtask data fetch",
        "cargo xtask data import",
        "does not exist",
        "No such file",
    ]
    .iter()
    .any(|phrase| text.contains(phrase))
}

/// Every key of the recipe's sections is one that the schema knows.
fn check_schema(schema: &Value, recipe: &Recipe) {
    let sections = [
        ("model", &recipe.model),
        ("data", &recipe.data),
        ("training", &recipe.training),
        ("evaluation", &recipe.evaluation),
    ];
    for (name, section) in sections {
        let known = keys(schema, &schema["properties"][name]);
        for key in section.as_object().expect("an object").keys() {
            let file = recipe.file.display();
            assert!(
                known.contains(key),
                "{file}: {name}.{key} is not in the schema"
            );
        }
    }
}

/// The keys an object of this definition may have: its own, and those of every form it may take.
fn keys(schema: &Value, definition: &Value) -> BTreeSet<String> {
    if let Some(reference) = definition["$ref"].as_str() {
        let name = reference.rsplit('/').next().expect("a name");
        return keys(schema, &schema["$defs"][name]);
    }
    let own = definition["properties"].as_object().into_iter().flatten();
    let mut all: BTreeSet<String> = own.map(|(key, _)| key.clone()).collect();
    for forms in ["oneOf", "anyOf", "allOf"] {
        for form in definition[forms].as_array().into_iter().flatten() {
            all.extend(keys(schema, form));
        }
    }
    all
}

#[test]
fn the_quickstart_of_every_architecture_is_there() {
    for architecture in registry::ARCHITECTURES {
        let path = root()
            .join("configs")
            .join(architecture.name)
            .join("quickstart.json");
        assert!(path.is_file(), "{} is missing", path.display());
        assert!(RunReader::open(&path).is_err(), "a recipe is no run");
    }
}
