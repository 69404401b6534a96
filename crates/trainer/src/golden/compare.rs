//! Holding a replay against its golden case.

use super::{Case, Tolerance};
use burn::tensor::TensorData;
use pretrained::NamedTensors;
use serde::Serialize;
use serde_json::Value;

/// What a replay found.
#[derive(Debug, Clone, Default)]
pub struct Replayed {
    /// Tensors under the names of the case: `output.logits`, `mid.h.0`, `grad.embedding.weight`.
    pub tensors: NamedTensors,
    /// What the JSON of the case states and what was found.
    pub facts: Vec<Fact>,
    /// Tensors of the case that say what is compared and are no results themselves.
    pub selectors: Vec<String>,
    /// Tensors of the case that are not compared, each with the reason. A name ending in `*` stands for all that begin so.
    pub skipped: Vec<(String, String)>,
}

/// A statement of the JSON and what was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// What it is about.
    pub name: String,
    /// The statement.
    pub expected: Value,
    /// What was found.
    pub found: Value,
    /// How far numbers may be apart; without one everything must be equal.
    pub tolerance: Option<Tolerance>,
}

impl Fact {
    /// A fact that must be met exactly.
    pub fn exact(name: impl Into<String>, expected: Value, found: Value) -> Self {
        Self {
            name: name.into(),
            expected,
            found,
            tolerance: None,
        }
    }

    /// A fact whose numbers may differ within a tolerance; with none it must be met exactly.
    pub fn close(
        name: impl Into<String>,
        expected: Value,
        found: Value,
        tolerance: Option<Tolerance>,
    ) -> Self {
        Self {
            name: name.into(),
            expected,
            found,
            tolerance,
        }
    }
}

/// The outcome of a comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The case.
    pub case: String,
    /// Its model.
    pub model: String,
    /// Its check.
    pub check: String,
    /// Whether everything that was compared agrees.
    pub passed: bool,
    /// Every tensor that was compared, or should have been.
    pub tensors: Vec<TensorReport>,
    /// Every fact.
    pub facts: Vec<FactReport>,
    /// What was not compared.
    pub not_compared: Vec<NotCompared>,
}

/// A tensor that was not compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NotCompared {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// How far a tensor is from the expected one.
#[derive(Debug, Clone, Serialize)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// Its expected shape.
    pub shape: Vec<usize>,
    /// Whether it agrees.
    pub passed: bool,
    /// The largest absolute difference; infinite where one of two values is not finite.
    pub worst_abs: f64,
    /// The largest difference relative to a non-zero expected value.
    pub worst_rel: f64,
    /// How many elements are too far away.
    pub misses: usize,
    /// What is wrong, in words.
    pub problem: Option<String>,
}

/// Whether a fact is met.
#[derive(Debug, Clone, Serialize)]
pub struct FactReport {
    /// What it is about.
    pub name: String,
    /// Whether it is met.
    pub passed: bool,
    /// The largest difference between two numbers.
    pub worst_abs: f64,
    /// The first place that differs, with both values.
    pub problem: Option<String>,
}

/// Compares every `output.*`, `mid.*` and `grad.*` of a case and every fact with a replay; `widen` multiplies the tolerances.
///
/// An `output.*` or `grad.*` that was neither replayed nor skipped with a reason is a miss; a `mid.*` is then listed as not compared.
pub fn compare(case: &Case, replayed: &Replayed, widen: f64) -> Report {
    let mut tensors = Vec::new();
    let mut not_compared = Vec::new();
    for (name, expected) in &case.tensors {
        let part = name.split('.').next().unwrap_or_default();
        let gradient = part == "grad" || part.starts_with("grad_");
        if !gradient && part != "output" && part != "mid" {
            continue;
        }
        let mut skip = |reason: &str| {
            not_compared.push(NotCompared {
                name: name.clone(),
                reason: reason.to_owned(),
            });
        };
        if replayed.selectors.contains(name) {
            skip("it says what is compared");
        } else if let Some(reason) = skipped(replayed, name) {
            skip(reason);
        } else if let Some(found) = replayed.tensors.get(name) {
            let tolerance = case.tolerance.map(|tolerance| match gradient {
                true => tolerance.of_gradients().widened(widen),
                false => tolerance.widened(widen),
            });
            tensors.push(compare_tensor(name, expected, found, tolerance));
        } else if part == "mid" || expected.shape().contains(&0) {
            skip("the replay does not give it");
        } else {
            tensors.push(miss(name, expected, "the replay does not give it"));
        }
    }
    if case.tensors.is_empty() {
        // A case of JSON alone: what its replay left out has no tensor to stand under.
        for (name, reason) in &replayed.skipped {
            not_compared.push(NotCompared {
                name: name.clone(),
                reason: reason.clone(),
            });
        }
    }
    let facts: Vec<FactReport> = replayed
        .facts
        .iter()
        .map(|fact| compare_fact(fact, widen))
        .collect();
    Report {
        case: case.name.clone(),
        model: case.model.clone(),
        check: case.check.clone(),
        passed: tensors.iter().all(|t| t.passed) && facts.iter().all(|f| f.passed),
        tensors,
        facts,
        not_compared,
    }
}

fn skipped<'a>(replayed: &'a Replayed, name: &str) -> Option<&'a str> {
    let matches = |pattern: &str| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    let mut skipped = replayed.skipped.iter();
    skipped
        .find(|(pattern, _)| matches(pattern))
        .map(|(_, reason)| reason.as_str())
}

fn miss(name: &str, expected: &TensorData, problem: impl Into<String>) -> TensorReport {
    TensorReport {
        name: name.to_owned(),
        shape: expected.shape().as_slice().to_vec(),
        passed: false,
        worst_abs: f64::INFINITY,
        worst_rel: f64::INFINITY,
        misses: expected.num_elements(),
        problem: Some(problem.into()),
    }
}

fn compare_tensor(
    name: &str,
    expected: &TensorData,
    found: &TensorData,
    tolerance: Option<Tolerance>,
) -> TensorReport {
    let scalar = |data: &TensorData| matches!(data.shape().as_slice(), [] | [1]);
    if expected.shape() != found.shape() && !(scalar(expected) && scalar(found)) {
        let shapes = format!(
            "the shape is {:?} instead of {:?}",
            found.shape().as_slice(),
            expected.shape().as_slice()
        );
        return miss(name, expected, shapes);
    }
    let whole = |data: &TensorData| !data.dtype().is_float();
    if whole(expected) && whole(found) {
        // As 64-bit integers: floats would blur large ones.
        return match (integers(expected), integers(found)) {
            (Some(e), Some(f)) => {
                let far = |e: &i64, f: &i64| (e != f).then(|| e.abs_diff(*f) as f64);
                differences(name, expected, &e, &f, far)
            }
            _ => miss(name, expected, "its elements cannot be read as integers"),
        };
    }
    let (Some(e), Some(f)) = (floats(expected), floats(found)) else {
        return miss(name, expected, "its elements cannot be read as numbers");
    };
    let exact = Tolerance {
        abs: 0.0,
        rel: 0.0,
        grad_abs: None,
        grad_rel: None,
    };
    let tolerance = match whole(expected) {
        true => exact,
        false => tolerance.unwrap_or(exact),
    };
    let far = |e: &f64, f: &f64| (!tolerance.accepts(*e, *f)).then(|| distance(*e, *f));
    let mut report = differences(name, expected, &e, &f, far);
    let all = || e.iter().zip(&f);
    report.worst_abs = all().map(|(e, f)| distance(*e, *f)).fold(0.0, f64::max);
    report.worst_rel = all()
        .filter(|(e, _)| **e != 0.0)
        .map(|(e, f)| distance(*e, *f) / e.abs())
        .fold(0.0, f64::max);
    report
}

/// The difference of two numbers; 0 for two of the same kind that are not finite, else infinite.
fn distance(expected: f64, found: f64) -> f64 {
    if expected == found || (expected.is_nan() && found.is_nan()) {
        0.0
    } else if expected.is_finite() && found.is_finite() {
        (expected - found).abs()
    } else {
        f64::INFINITY
    }
}

/// Counts the elements that are too far away and describes the farthest.
fn differences<T: std::fmt::Debug>(
    name: &str,
    data: &TensorData,
    expected: &[T],
    found: &[T],
    far: impl Fn(&T, &T) -> Option<f64>,
) -> TensorReport {
    let shape = data.shape().as_slice().to_vec();
    let mut misses = 0;
    let mut worst: Option<(usize, f64)> = None;
    for (index, (e, f)) in expected.iter().zip(found).enumerate() {
        if let Some(by) = far(e, f) {
            misses += 1;
            if worst.is_none_or(|(_, old)| by > old) {
                worst = Some((index, by));
            }
        }
    }
    let problem = worst.map(|(index, _)| {
        format!(
            "{misses} of {} elements are too far away, worst at {:?}: {:?} instead of {:?}",
            expected.len(),
            coordinates(index, &shape),
            found[index],
            expected[index]
        )
    });
    let worst = worst.map_or(0.0, |(_, by)| by);
    TensorReport {
        name: name.to_owned(),
        shape,
        passed: problem.is_none(),
        worst_abs: worst,
        worst_rel: worst,
        misses,
        problem,
    }
}

fn coordinates(mut index: usize, shape: &[usize]) -> Vec<usize> {
    let mut at: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&size| {
            let here = index % size.max(1);
            index /= size.max(1);
            here
        })
        .collect();
    at.reverse();
    at
}

fn floats(data: &TensorData) -> Option<Vec<f64>> {
    let data = data.clone().try_cast_as::<f64>().ok()?;
    data.try_to_vec::<f64>().ok()
}

fn integers(data: &TensorData) -> Option<Vec<i64>> {
    let data = data.clone().try_cast_as::<i64>().ok()?;
    data.try_to_vec::<i64>().ok()
}

fn compare_fact(fact: &Fact, widen: f64) -> FactReport {
    let tolerance = fact.tolerance.map(|tolerance| tolerance.widened(widen));
    let mut worst_abs = 0.0;
    let problem = differs(&fact.expected, &fact.found, "", tolerance, &mut worst_abs);
    FactReport {
        name: fact.name.clone(),
        passed: problem.is_none(),
        worst_abs,
        problem,
    }
}

/// The first place where two values differ; `worst` gathers the largest difference of numbers.
fn differs(
    expected: &Value,
    found: &Value,
    at: &str,
    tolerance: Option<Tolerance>,
    worst: &mut f64,
) -> Option<String> {
    let place = || match at {
        "" => String::new(),
        at => format!("at {}: ", at.trim_start_matches('.')),
    };
    match (expected, found) {
        (Value::Array(e), Value::Array(f)) => {
            if e.len() != f.len() {
                let (f, e) = (f.len(), e.len());
                return Some(format!("{}{f} items instead of {e}", place()));
            }
            let mut first = None;
            for (i, (e, f)) in e.iter().zip(f).enumerate() {
                let problem = differs(e, f, &format!("{at}.{i}"), tolerance, worst);
                first = first.or(problem);
            }
            first
        }
        (Value::Object(e), Value::Object(f)) => {
            if let Some(key) = f.keys().find(|key| !e.contains_key(*key)) {
                return Some(format!("{}`{key}` is not expected", place()));
            }
            let mut first = None;
            for (key, e) in e {
                let problem = match f.get(key) {
                    None => Some(format!("{}`{key}` is missing", place())),
                    Some(f) => differs(e, f, &format!("{at}.{key}"), tolerance, worst),
                };
                first = first.or(problem);
            }
            first
        }
        (Value::Number(e), Value::Number(f)) => {
            let number = |n: &serde_json::Number| n.as_f64().unwrap_or(f64::NAN);
            let (x, y) = (number(e), number(f));
            *worst = worst.max(distance(x, y));
            let whole = (e.as_i64(), f.as_i64());
            let equal = match (tolerance, whole) {
                (Some(tolerance), _) => tolerance.accepts(x, y),
                (None, (Some(e), Some(f))) => e == f,
                (None, _) => x == y,
            };
            (!equal).then(|| format!("{}{f} instead of {e}", place()))
        }
        _ => (expected != found).then(|| format!("{}{found} instead of {expected}", place())),
    }
}
