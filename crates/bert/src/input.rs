//! What an encoder is given: token ids with their mask, segments and positions, checked on the host.

use crate::error::{Result, input_error};
use burn::prelude::*;
use pretrained::NamedTensors;

/// Added to the score of a hidden key. Finite, so that a row that sees nothing gives equal weights and never NaN.
pub const HIDDEN_SCORE: f64 = f32::MIN as f64 / 2.0;

/// A batch of sequences `[batch, length]`, row-major. It lies on the host, so that every value can be checked without
/// waiting for a device.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderInput {
    batch: usize,
    length: usize,
    input_ids: Vec<i64>,
    attention_mask: Option<Vec<bool>>,
    token_type_ids: Option<Vec<i64>>,
    position_ids: Option<Vec<i64>>,
}

/// Sizes of the embedding tables, which bound the ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSizes {
    /// Rows of the word table.
    pub words: usize,
    /// Rows of the position table.
    pub positions: usize,
    /// Rows of the segment table; 0 for a model without segments.
    pub types: usize,
}

impl EncoderInput {
    /// Token ids `[batch, length]` in row-major order, all of them real, of segment 0, at the model's own positions.
    ///
    /// # Errors
    /// A number of ids other than `batch · length`, or none.
    pub fn new(input_ids: Vec<i64>, batch: usize, length: usize) -> Result<Self> {
        if batch * length == 0 {
            return Err(input_error(
                "input_ids",
                format!("[{batch}, {length}]"),
                "expected at least one sequence of at least one token",
            ));
        }
        check_len("input_ids", input_ids.len(), batch, length)?;
        Ok(Self {
            batch,
            length,
            input_ids,
            attention_mask: None,
            token_type_ids: None,
            position_ids: None,
        })
    }

    /// Rows of different lengths, padded on the right with `pad`; the mask says which tokens are real.
    ///
    /// # Errors
    /// No rows, or only empty ones.
    pub fn from_rows<R: AsRef<[u32]>>(rows: &[R], pad: u32) -> Result<Self> {
        let length = rows.iter().map(|r| r.as_ref().len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(rows.len() * length);
        let mut mask = Vec::with_capacity(rows.len() * length);
        for row in rows.iter().map(AsRef::as_ref) {
            ids.extend(row.iter().map(|&id| i64::from(id)));
            ids.resize(ids.len() + length - row.len(), i64::from(pad));
            mask.extend((0..length).map(|i| i < row.len()));
        }
        Self::new(ids, rows.len(), length)?.with_attention_mask(mask)
    }

    /// Sets which tokens are real: `[batch, length]`.
    ///
    /// # Errors
    /// Another number of elements.
    pub fn with_attention_mask(mut self, mask: Vec<bool>) -> Result<Self> {
        check_len("attention_mask", mask.len(), self.batch, self.length)?;
        self.attention_mask = Some(mask);
        Ok(self)
    }

    /// Sets the segments: `[batch, length]`.
    ///
    /// # Errors
    /// Another number of elements.
    pub fn with_token_types(mut self, types: Vec<i64>) -> Result<Self> {
        check_len("token_type_ids", types.len(), self.batch, self.length)?;
        self.token_type_ids = Some(types);
        Ok(self)
    }

    /// Sets the rows of the position table: `[batch, length]`, taken as they are.
    ///
    /// # Errors
    /// Another number of elements.
    pub fn with_positions(mut self, positions: Vec<i64>) -> Result<Self> {
        check_len("position_ids", positions.len(), self.batch, self.length)?;
        self.position_ids = Some(positions);
        Ok(self)
    }

    /// From tensors named `input_ids`, and optionally `attention_mask`, `token_type_ids`, `position_ids`, each
    /// `[batch, length]`; positions may be `[1, length]`.
    ///
    /// # Errors
    /// No `input_ids`, shapes that differ, or ids that are no integers.
    pub fn from_named(tensors: &NamedTensors) -> Result<Self> {
        let ids = tensors.get("input_ids").ok_or_else(|| {
            input_error("input_ids", "absent", "expected token ids [batch, length]")
        })?;
        let &[batch, length] = &ids.shape()[..] else {
            return Err(input_error(
                "input_ids",
                format!("of shape {:?}", ids.shape()),
                "expected [batch, length]",
            ));
        };
        let mut input = Self::new(integers("input_ids", ids)?, batch, length)?;
        let get = |name: &'static str, one_row: bool| -> Result<Option<Vec<i64>>> {
            let Some(data) = tensors.get(name) else {
                return Ok(None);
            };
            let values = integers(name, data)?;
            match &data.shape()[..] {
                [b, l] if [*b, *l] == [batch, length] => Ok(Some(values)),
                [1, l] | [l] if one_row && *l == length => Ok(Some(values.repeat(batch))),
                other => Err(input_error(
                    name,
                    format!("of shape {other:?}"),
                    format!("expected [{batch}, {length}] as input_ids"),
                )),
            }
        };
        if let Some(mask) = tensors.get("attention_mask") {
            if mask.shape()[..] != [batch, length] {
                return Err(input_error(
                    "attention_mask",
                    format!("of shape {:?}", mask.shape()),
                    format!("expected [{batch}, {length}] as input_ids"),
                ));
            }
            let mask: Vec<bool> = mask.iter::<f64>().map(|m| m != 0.0).collect();
            input = input.with_attention_mask(mask)?;
        }
        if let Some(types) = get("token_type_ids", true)? {
            input = input.with_token_types(types)?;
        }
        if let Some(positions) = get("position_ids", true)? {
            input = input.with_positions(positions)?;
        }
        Ok(input)
    }

    /// Longer rows: what is added on the right holds the id `pad` and is no real token. Rows that are long enough already,
    /// or whose positions were given, stay as they are.
    #[must_use]
    pub fn padded_to(self, length: usize, pad: i64) -> Self {
        if self.length >= length || self.position_ids.is_some() {
            return self;
        }
        fn longer<T: Copy>(values: &[T], from: usize, to: usize, fill: T) -> Vec<T> {
            let rows = values.chunks(from);
            rows.flat_map(|row| {
                let added = std::iter::repeat_n(fill, to - from);
                row.iter().copied().chain(added)
            })
            .collect()
        }
        let old = self.length;
        let real = self
            .attention_mask
            .unwrap_or_else(|| vec![true; self.batch * old]);
        Self {
            length,
            input_ids: longer(&self.input_ids, old, length, pad),
            attention_mask: Some(longer(&real, old, length, false)),
            token_type_ids: self
                .token_type_ids
                .map(|types| longer(&types, old, length, 0)),
            ..self
        }
    }

    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Tokens of a sequence, padding included.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The token ids, `[batch, length]`.
    pub fn input_ids(&self) -> &[i64] {
        &self.input_ids
    }

    /// Which tokens are real, `[batch, length]`; `None` where all are.
    pub fn attention_mask(&self) -> Option<&[bool]> {
        self.attention_mask.as_deref()
    }

    /// The segments, `[batch, length]`; `None` where all are 0.
    pub fn token_type_ids(&self) -> Option<&[i64]> {
        self.token_type_ids.as_deref()
    }

    /// The positions that were given, `[batch, length]`.
    pub fn position_ids(&self) -> Option<&[i64]> {
        self.position_ids.as_deref()
    }

    /// Checks every id against the tables, and that each sequence has a real token.
    ///
    /// # Errors
    /// The first value out of range, with its place.
    pub fn check(&self, tables: TableSizes) -> Result<()> {
        self.in_range("input_ids", &self.input_ids, tables.words, "vocab_size")?;
        if let Some(types) = &self.token_type_ids {
            self.in_range("token_type_ids", types, tables.types, "type_vocab_size")?;
        }
        if let Some(positions) = &self.position_ids {
            let rows = tables.positions;
            self.in_range("position_ids", positions, rows, "max_position_embeddings")?;
        }
        if let Some(mask) = &self.attention_mask {
            let blind = mask
                .chunks(self.length)
                .position(|row| row.iter().all(|m| !m));
            if let Some(row) = blind {
                return Err(input_error(
                    format!("attention_mask[{row}]"),
                    "all zero",
                    "every sequence needs at least one real token; leave the sequence out",
                ));
            }
        }
        Ok(())
    }

    fn in_range(&self, name: &str, values: &[i64], below: usize, key: &str) -> Result<()> {
        match values.iter().position(|v| *v < 0 || *v >= below as i64) {
            None => Ok(()),
            Some(i) => Err(input_error(
                format!("{name}[{}, {}]", i / self.length, i % self.length),
                values[i],
                format!("expected an id in 0..{below} ({key})"),
            )),
        }
    }

    /// What is added to the attention scores: 0 for real keys, [`HIDDEN_SCORE`] for padding, `[batch, 1, 1, length]`;
    /// `None` where every token is real.
    pub fn attention_bias(&self, device: &Device) -> Option<Tensor<4>> {
        let mask = self.attention_mask.as_ref()?;
        if mask.iter().all(|m| *m) {
            return None;
        }
        let score = |&real: &bool| if real { 0.0 } else { HIDDEN_SCORE as f32 };
        let data = TensorData::new(
            mask.iter().map(score).collect::<Vec<f32>>(),
            [self.batch, 1, 1, self.length],
        );
        Some(Tensor::from_data(data, &device.clone().without_autodiff()))
    }

    /// 1 for real tokens and 0 for padding, `[batch, length]`.
    pub fn mask_tensor(&self, device: &Device) -> Tensor<2> {
        let n = self.batch * self.length;
        let values: Vec<f32> = match &self.attention_mask {
            Some(mask) => mask.iter().map(|m| f32::from(*m)).collect(),
            None => vec![1.0; n],
        };
        Tensor::from_data(
            TensorData::new(values, [self.batch, self.length]),
            &device.clone().without_autodiff(),
        )
    }
}

fn check_len(name: &str, found: usize, batch: usize, length: usize) -> Result<()> {
    match found == batch * length {
        true => Ok(()),
        false => Err(input_error(
            name,
            format!("{found} values"),
            format!("expected [{batch}, {length}], which are {}", batch * length),
        )),
    }
}

/// The values of an integer tensor.
///
/// # Errors
/// A tensor of floats.
pub fn integers(name: &str, data: &TensorData) -> Result<Vec<i64>> {
    if data.dtype().is_float() {
        return Err(input_error(
            name,
            format!("of type {:?}", data.dtype()),
            "expected integers",
        ));
    }
    Ok(data.iter::<i64>().collect())
}
