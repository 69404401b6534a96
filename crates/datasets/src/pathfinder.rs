//! Pathfinder-like pictures: are two dots joined by a dashed curve? (Linsley et al., NeurIPS 2018; one of the tasks of the
//! Long Range Arena.) The pictures are drawn here, so results on them are not those of the published files.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, value};
use crate::make::SplitMix;
use crate::sequences::{Example, Sequences};

/// What to generate. The same spec gives the same pictures on every machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PathfinderSpec {
    /// Width and height in pixels; sequences have `size²` ids.
    pub size: usize,
    /// Dashes of the two long curves.
    pub dashes: usize,
    /// Short curves that lead nowhere.
    pub distractors: usize,
    /// Pictures of the training split.
    pub train: usize,
    /// Pictures of the validation split.
    pub valid: usize,
    /// Pictures of the test split.
    pub test: usize,
    /// Seed of the generator.
    pub seed: u64,
}

impl Default for PathfinderSpec {
    fn default() -> Self {
        Self {
            size: 32,
            dashes: 9,
            distractors: 4,
            train: 160_000,
            valid: 20_000,
            test: 20_000,
            seed: 0,
        }
    }
}

/// Length of a dash and of a gap, in pixels of a picture 32 wide.
const DASH: f64 = 2.0;
const GAP: f64 = 1.4;
/// Most a curve turns from dash to dash, in radians.
const TURN: f64 = 0.55;

type Draw<'a> = &'a mut dyn FnMut(usize) -> usize;

/// Uniform in `[0, 1)`.
fn uniform(draw: Draw<'_>) -> f64 {
    draw(1 << 24) as f64 / f64::from(1 << 24)
}

impl PathfinderSpec {
    /// Checks the values.
    ///
    /// # Errors
    /// [`crate::Error::Value`] naming the key.
    pub fn validate(&self) -> Result<()> {
        if !(16..=256).contains(&self.size) {
            return Err(value("data.size", self.size, "from 16 to 256"));
        }
        if !(2..=14).contains(&self.dashes) {
            return Err(value("data.dashes", self.dashes, "from 2 to 14"));
        }
        if self.distractors > 50 {
            return Err(value("data.distractors", self.distractors, "at most 50"));
        }
        for (key, n) in [
            ("train", self.train),
            ("valid", self.valid),
            ("test", self.test),
        ] {
            if !(1..=1 << 22).contains(&n) {
                return Err(value(&format!("data.{key}"), n, "from 1 to 2^22"));
            }
        }
        Ok(())
    }

    /// Generates with the generator of this crate.
    ///
    /// # Errors
    /// As [`PathfinderSpec::validate`].
    pub fn generate(&self) -> Result<Sequences> {
        let mut state = SplitMix::new(self.seed);
        self.generate_with(&mut |below| state.below(below))
    }

    /// Generates with `draw(n)`, which returns a number uniform in `0..n`.
    ///
    /// # Errors
    /// As [`PathfinderSpec::validate`].
    pub fn generate_with(&self, draw: &mut dyn FnMut(usize) -> usize) -> Result<Sequences> {
        self.validate()?;
        let draw = &mut |below: usize| draw(below) % below;
        let mut split = |n: usize| (0..n).map(|_| self.picture(draw)).collect();
        Ok(Sequences {
            name: format!("Pathfinder-like, {0}×{0} pixels", self.size),
            train: split(self.train),
            valid: split(self.valid),
            test: split(self.test),
            vocab_size: 256,
            classes: 2,
        })
    }

    /// Two long curves and the short ones; a dot at both ends of one, or at one end of each.
    fn picture(&self, draw: Draw<'_>) -> Example {
        let mut canvas = vec![0u8; self.size * self.size];
        let first = self.curve(self.dashes, draw);
        let second = self.curve(self.dashes, draw);
        for curve in [&first, &second] {
            self.stroke(&mut canvas, curve);
        }
        for _ in 0..self.distractors {
            let short = self.curve(self.dashes.div_ceil(3), draw);
            self.stroke(&mut canvas, &short);
        }
        let joined = draw(2) == 1;
        let end = |curve: &[[f64; 4]], last: bool| match last {
            true => curve.last().map(|d| [d[2], d[3]]),
            false => curve.first().map(|d| [d[0], d[1]]),
        };
        let dots = match joined {
            true => [end(&first, false), end(&first, true)],
            false => [end(&first, draw(2) == 1), end(&second, draw(2) == 1)],
        };
        for [x, y] in dots.into_iter().flatten() {
            self.dot(&mut canvas, x, y, 1.6 * self.size as f64 / 32.0);
        }
        Example {
            ids: canvas.into_iter().map(u16::from).collect(),
            label: u16::from(joined),
        }
    }

    /// Dashes `[x0, y0, x1, y1]` of a curve inside the picture; a walk that leaves it starts again.
    fn curve(&self, dashes: usize, draw: Draw<'_>) -> Vec<[f64; 4]> {
        let scale = self.size as f64 / 32.0;
        let inside = |v: f64| (1.5 * scale..=self.size as f64 - 2.5 * scale).contains(&v);
        let mut longest = vec![];
        for _ in 0..200 {
            let mut x = uniform(draw) * self.size as f64;
            let mut y = uniform(draw) * self.size as f64;
            let mut angle = uniform(draw) * std::f64::consts::TAU;
            let mut curve = vec![];
            while curve.len() < dashes {
                let (dx, dy) = (angle.cos() * scale, angle.sin() * scale);
                let (ex, ey) = (x + dx * DASH, y + dy * DASH);
                if ![x, y, ex, ey].into_iter().all(inside) {
                    break;
                }
                curve.push([x, y, ex, ey]);
                x = ex + dx * GAP;
                y = ey + dy * GAP;
                angle += (2.0 * uniform(draw) - 1.0) * TURN;
            }
            if curve.len() == dashes {
                return curve;
            }
            if curve.len() > longest.len() {
                longest = curve;
            }
        }
        longest
    }

    fn stroke(&self, canvas: &mut [u8], curve: &[[f64; 4]]) {
        for [x0, y0, x1, y1] in curve {
            const POINTS: u32 = 8;
            for i in 0..=POINTS {
                let t = f64::from(i) / f64::from(POINTS);
                self.dot(
                    canvas,
                    x0 + t * (x1 - x0),
                    y0 + t * (y1 - y0),
                    0.6 * self.size as f64 / 32.0,
                );
            }
        }
    }

    /// A disc whose rim fades over a pixel.
    fn dot(&self, canvas: &mut [u8], x: f64, y: f64, radius: f64) {
        let range = |v: f64| {
            let low = (v - radius - 1.0).floor().max(0.0) as usize;
            let high = ((v + radius + 2.0).max(0.0) as usize).min(self.size);
            low..high
        };
        for row in range(y) {
            for column in range(x) {
                let distance = (column as f64 - x).hypot(row as f64 - y);
                let light = ((radius + 0.5 - distance).clamp(0.0, 1.0) * 255.0) as u8;
                let pixel = &mut canvas[row * self.size + column];
                *pixel = (*pixel).max(light);
            }
        }
    }
}
