//! Numbers that a run reports: scalars of training steps, which stay on the device, and metrics of evaluations.

use crate::{Error, Result};
use burn::tensor::{Tensor, Transaction};
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The scalars of one training step.
///
/// Device values are not read when they are added: the runner reads those of several steps in one transaction. Every value must
/// be finite; the first that is not stops the run.
#[derive(Debug, Clone, Default)]
pub struct Scalars {
    entries: Vec<(String, Entry)>,
}

#[derive(Debug, Clone)]
enum Entry {
    Device(Box<Tensor<1>>),
    Host(f64),
}

impl Scalars {
    /// No scalars yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a device tensor of one element, which is detached; the log shows its mean over the steps since the last line.
    pub fn mean(mut self, name: impl Into<String>, value: Tensor<1>) -> Self {
        self.add_mean(name, value);
        self
    }

    /// Adds a number; the log shows the last one.
    pub fn value(mut self, name: impl Into<String>, value: f64) -> Self {
        self.add_value(name, value);
        self
    }

    /// As [`mean`](Self::mean), in place.
    pub fn add_mean(&mut self, name: impl Into<String>, value: Tensor<1>) {
        self.entries
            .push((name.into(), Entry::Device(Box::new(value.inner()))));
    }

    /// As [`value`](Self::value), in place.
    pub fn add_value(&mut self, name: impl Into<String>, value: f64) {
        self.entries.push((name.into(), Entry::Host(value)));
    }
}

/// One scalar of one step, read from the device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading {
    pub name: String,
    pub value: f64,
    pub averaged: bool,
}

/// Reads the scalars of several steps in one transaction.
pub(crate) fn read(steps: Vec<Scalars>) -> Result<Vec<Vec<Reading>>> {
    let mut transaction = Transaction::default();
    let mut pending = 0;
    for (name, entry) in steps.iter().flat_map(|s| &s.entries) {
        if let Entry::Device(tensor) = entry {
            if tensor.dims() != [1] {
                return Err(Error::Update {
                    what: format!("the scalar `{name}` has {} elements", tensor.dims()[0]),
                    remedy: "report its mean or its sum".to_owned(),
                });
            }
            transaction = transaction.register(Tensor::clone(tensor));
            pending += 1;
        }
    }
    let mut values = Vec::new().into_iter();
    if pending > 0 {
        let read = transaction
            .try_execute()
            .map_err(|e| Error::Device(format!("{e:?}")))?;
        values = read.into_iter();
    }
    let mut one = || -> Result<f64> {
        let data = values
            .next()
            .ok_or_else(|| Error::Device("a scalar did not come back".to_owned()))?;
        data.try_cast_as::<f64>()
            .ok()
            .and_then(|data| data.try_to_vec::<f64>().ok()?.first().copied())
            .ok_or_else(|| Error::Device("a scalar came back in a form that is no number".into()))
    };
    steps
        .into_iter()
        .map(|step| {
            step.entries
                .into_iter()
                .map(|(name, entry)| {
                    let (value, averaged) = match entry {
                        Entry::Device(_) => (one()?, true),
                        Entry::Host(value) => (value, false),
                    };
                    Ok(Reading {
                        name,
                        value,
                        averaged,
                    })
                })
                .collect()
        })
        .collect()
}

/// Named numbers in the order in which they were added; one number per name. As JSON an object, in which a number that is not finite is `null`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics(Vec<(String, f64)>);

impl Metrics {
    /// No metrics yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// These metrics and one more.
    pub fn with(mut self, name: impl Into<String>, value: f64) -> Self {
        self.insert(name, value);
        self
    }

    /// Sets a metric.
    pub fn insert(&mut self, name: impl Into<String>, value: f64) {
        let name = name.into();
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((name, value)),
        }
    }

    /// The value of a metric.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == name).map(|e| e.1)
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<(String, f64)> for Metrics {
    fn from_iter<I: IntoIterator<Item = (String, f64)>>(iter: I) -> Self {
        iter.into_iter()
            .fold(Self::new(), |all, (name, value)| all.with(name, value))
    }
}

impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, &value.is_finite().then_some(value))?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Metrics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Metrics;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object of numbers")
            }
            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Metrics, A::Error> {
                let mut metrics = Metrics::new();
                while let Some((name, value)) = map.next_entry::<String, Option<f64>>()? {
                    metrics.insert(name, value.unwrap_or(f64::NAN));
                }
                Ok(metrics)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_keep_their_order_and_survive_json() {
        let metrics = Metrics::new().with("z", 0.1).with("a", f64::NAN);
        let text = serde_json::to_string(&metrics).expect("metrics are JSON");
        assert_eq!(text, r#"{"z":0.1,"a":null}"#);
        let back: Metrics = serde_json::from_str(&text).expect("JSON is metrics");
        assert_eq!(back.get("z"), Some(0.1));
        assert!(back.get("a").is_some_and(f64::is_nan));
        assert_eq!(metrics.with("z", 2.0).len(), 2);
    }
}
