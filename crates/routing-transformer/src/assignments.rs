//! Which positions are in which clusters, as tensors and as JSON.

use crate::layers::{Mode, Output};
use crate::lm::{PADDING, RoutingTransformerLM};
use crate::paper::PaperTransformer;
use burn::prelude::*;
use pretrained::NamedTensors;
use serde_json::{Value, json};
use trainer::{Error, Predict, Result};

/// For every routed layer `assignment.LAYER` `[batch, heads, length]`, the centroid nearest to each position, and where
/// clusters choose their members over the whole text `members.LAYER` `[batch, heads, clusters, members]`, positions. Queries
/// count where keys are others.
pub(crate) fn tensors(output: &Output) -> NamedTensors {
    let mut out = NamedTensors::new();
    for record in &output.routed {
        let [batch, heads, _, _] = record.similarity[0].dims();
        let nearest: Vec<i64> = record.stats.nearest.iter().map(|z| i64::from(*z)).collect();
        let length = nearest.len() / (batch * heads).max(1);
        let nearest = TensorData::new(nearest, [batch, heads, length]);
        out.insert(format!("assignment.{}", record.layer), nearest);
        if let Some(members) = record.members.first() {
            let positions = members.positions().iter().map(|p| i64::from(*p)).collect();
            let positions = TensorData::new(positions, members.dims());
            out.insert(format!("members.{}", record.layer), positions);
        }
    }
    out
}

/// How a text is spelled and how its tokens are numbered in the model.
pub(crate) trait Spelling {
    /// Ids of the model.
    fn ids(&self, text: &str) -> Result<Vec<i32>>;
    /// How one id reads.
    fn token(&self, id: i32) -> Result<String>;
}

/// Answers `{ "text": … }` or `{ "ids": […] }` with the clusters of every position.
pub(crate) struct Clusters<S> {
    pub model: RoutingTransformerLM,
    pub spelling: Option<S>,
    pub device: Device,
}

impl<S: Spelling> Clusters<S> {
    fn ids(&self, input: &Value) -> Result<Vec<i32>> {
        let wrong = |found: String| {
            let expected =
                "an object with `text`, a text, or with `ids`, a list of the model's ids";
            Error::value("the input", found, expected)
        };
        let Value::Object(map) = input else {
            return Err(wrong(input.to_string()));
        };
        match (map.get("text"), map.get("ids"), map.len()) {
            (Some(Value::String(text)), None, 1) => match &self.spelling {
                Some(spelling) => spelling.ids(text),
                None => {
                    let expected = "ids: this model has no vocabulary beside its weights";
                    Err(Error::value("input `text`", "given", expected))
                }
            },
            (None, Some(Value::Array(ids)), 1) => {
                let id = |v: &Value| {
                    let id = v.as_i64().and_then(|id| i32::try_from(id).ok());
                    id.ok_or_else(|| Error::value("input `ids`", v, "whole numbers"))
                };
                ids.iter().map(id).collect()
            }
            _ => {
                let keys: Vec<&str> = map.keys().map(String::as_str).collect();
                Err(wrong(format!("with the keys {keys:?}")))
            }
        }
    }
}

impl<S: Spelling> Predict for Clusters<S> {
    fn predict(&mut self, input: &Value) -> Result<Value> {
        let ids = self.ids(input)?;
        if ids.is_empty() {
            return Err(Error::value("the input", "empty", "at least one token"));
        }
        let vocab = self.model.config().vocab().unwrap_or(0);
        if let Some(bad) = ids
            .iter()
            .find(|id| usize::try_from(**id).map_or(true, |id| id >= vocab))
        {
            return Err(Error::value(
                "a token id",
                bad,
                format!("one of 0..{vocab}"),
            ));
        }
        let length = ids.len();
        let tokens =
            Tensor::<2, Int>::from_data(TensorData::new(ids.clone(), [1, length]), &self.device);
        // The authors' model sees at a position what stands before it.
        let shifted =
            matches!(self.model, RoutingTransformerLM::Paper(_)) && self.model.config().causal();
        let read = if shifted {
            PaperTransformer::shifted(tokens)
        } else {
            tokens
        };
        let output = self
            .model
            .forward(read, Mode::evaluation())
            .map_err(Error::other)?;
        let mut seen = ids.clone();
        if shifted {
            seen.insert(0, PADDING as i32);
            seen.truncate(length);
        }
        let spelled = |id: &i32| match &self.spelling {
            Some(_) if *id == PADDING as i32 => Ok(Value::Null),
            Some(spelling) => Ok(spelling.token(*id)?.into()),
            None => Ok(Value::Null),
        };
        let spelled: Vec<Value> = seen.iter().map(spelled).collect::<Result<_>>()?;
        let layers: Vec<Value> = output
            .routed
            .iter()
            .map(|record| {
                let [_, heads, _, _] = record.similarity[0].dims();
                // What is padded to a whole block is clustered as well, and not shown.
                let clustered = record.stats.nearest.len() / heads.max(1);
                let heads: Vec<Value> = (0..heads)
                    .map(|head| {
                        let nearest = &record.stats.nearest[head * clustered..][..length];
                        let mut clusters = vec![vec![]; length];
                        if let Some(members) = record.members.first() {
                            let [_, _, count, size] = members.dims();
                            for cluster in 0..count {
                                let at = (head * count + cluster) * size;
                                for position in &members.positions()[at..at + size] {
                                    if let Some(list) = clusters.get_mut(*position as usize) {
                                        list.push(cluster);
                                    }
                                }
                            }
                        } else if let Some(prefix) = &record.prefix {
                            for i in 0..prefix.pairs() {
                                let (group, cluster, query, _) = prefix.pair(i);
                                if let Some(list) =
                                    clusters.get_mut(query).filter(|_| group == head)
                                {
                                    list.push(cluster);
                                }
                            }
                        }
                        json!({ "head": head, "nearest": nearest, "clusters": clusters })
                    })
                    .collect();
                json!({ "layer": record.layer, "heads": heads })
            })
            .collect();
        Ok(json!({ "ids": seen, "tokens": spelled, "layers": layers }))
    }
}
