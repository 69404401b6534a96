//! Adafactor (Shazeer and Stern, 2018) without a first moment.

use super::sgd::decayed;
use super::{Hyper, Rule, Slots};
use burn::tensor::Tensor;

/// With G = g² + 1e−30 and β = 1 − t^−0.8 (t counts updates from 1, so the first forgets nothing it never had):
/// matrices keep the means of G over their columns and rows, r ← βr + (1 − β)·mean_columns(G) and
/// c ← βc + (1 − β)·mean_rows(G), and v = r·c / mean(r) stands for the average of G; vectors keep v itself. The direction
/// u = g / √v is shortened to a root mean square of `clip`; p ← p − lr · max(RMS(p), 1e−3) · u. Of a tensor with more than
/// two axes the last two are the matrix.
pub(crate) struct Adafactor {
    pub decay_power: f64,
    pub clip: f64,
    pub eps: [f64; 2],
}

impl Adafactor {
    fn moved(
        &self,
        hyper: Hyper,
        param: Tensor<1>,
        square_root: Tensor<1>,
        gradient: Tensor<1>,
    ) -> Tensor<1> {
        let direction = gradient / square_root;
        let rms = |x: &Tensor<1>| x.clone().square().mean().sqrt();
        let excess = rms(&direction).div_scalar(self.clip).clamp_min(1.0);
        let size = rms(&param).clamp_min(self.eps[1]);
        param - direction / excess * size.mul_scalar(hyper.lr)
    }

    fn average(&self, hyper: Hyper, old: Option<Tensor<1>>, new: Tensor<1>) -> Tensor<1> {
        let beta = 1.0 - (hyper.count as f64).powf(-self.decay_power);
        match old {
            Some(old) => old.mul_scalar(beta) + new.mul_scalar(1.0 - beta),
            None => new,
        }
    }
}

impl Rule for Adafactor {
    fn slots(&self) -> &'static [&'static str] {
        &["v", "row", "column"]
    }

    fn fits(&self, slot: &str, found: usize, elements: usize) -> bool {
        match slot {
            "v" => found == elements,
            _ => found > 0 && elements.is_multiple_of(found),
        }
    }

    /// A parameter whose shape is not known is a vector.
    fn update(
        &self,
        hyper: Hyper,
        param: Tensor<1>,
        gradient: Tensor<1>,
        slots: &mut Slots,
    ) -> Tensor<1> {
        let gradient = decayed(hyper.weight_decay, &param, gradient);
        let square = gradient.clone().square().add_scalar(self.eps[0]);
        let v = self.average(hyper, slots.remove("v"), square);
        slots.insert("v".to_owned(), v.clone());
        self.moved(hyper, param, v.sqrt(), gradient)
    }

    fn update_shaped(
        &self,
        hyper: Hyper,
        shape: &[usize],
        param: Tensor<1>,
        gradient: Tensor<1>,
        slots: &mut Slots,
    ) -> Tensor<1> {
        let [before @ .., rows, columns] = shape else {
            return self.update(hyper, param, gradient, slots);
        };
        let (rows, columns) = (*rows, *columns);
        let groups: usize = before.iter().product();
        let gradient = decayed(hyper.weight_decay, &param, gradient);
        let square = gradient
            .clone()
            .square()
            .add_scalar(self.eps[0])
            .reshape([groups, rows, columns]);
        let row = square.clone().mean_dim(2).reshape([groups * rows]);
        let column = square.mean_dim(1).reshape([groups * columns]);
        let row = self.average(hyper, slots.remove("row"), row);
        let column = self.average(hyper, slots.remove("column"), column);
        slots.insert("row".to_owned(), row.clone());
        slots.insert("column".to_owned(), column.clone());
        let row = row.reshape([groups, rows, 1]);
        // Roots of the factors one by one: their product may be too small for a float.
        let root_row = (row.clone() / row.mean_dim(1)).sqrt();
        let root_column = column.reshape([groups, 1, columns]).sqrt();
        let root = (root_row * root_column).reshape([groups * rows * columns]);
        self.moved(hyper, param, root, gradient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    const RULE: Adafactor = Adafactor {
        decay_power: 0.8,
        clip: 1.0,
        eps: [1e-30, 1e-3],
    };

    /// The formulas with plain numbers, one matrix after another.
    fn by_hand(
        t: f64,
        [rows, columns]: [usize; 2],
        p: &mut [f64],
        g: &[f64],
        r: &mut [f64],
        c: &mut [f64],
    ) {
        let beta = 1.0 - t.powf(-0.8);
        let square = |i: usize, j: usize| g[i * columns + j].powi(2) + 1e-30;
        for (i, r) in r.iter_mut().enumerate() {
            let mean = (0..columns).map(|j| square(i, j)).sum::<f64>() / columns as f64;
            *r = beta * *r + (1.0 - beta) * mean;
        }
        for (j, c) in c.iter_mut().enumerate() {
            let mean = (0..rows).map(|i| square(i, j)).sum::<f64>() / rows as f64;
            *c = beta * *c + (1.0 - beta) * mean;
        }
        let mean_r = r.iter().sum::<f64>() / rows as f64;
        let u: Vec<f64> = (0..rows * columns)
            .map(|k| g[k] / (r[k / columns] * c[k % columns] / mean_r).sqrt())
            .collect();
        let rms = |x: &[f64]| (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt();
        let (excess, size) = (rms(&u).max(1.0), rms(p).max(1e-3));
        for (p, u) in p.iter_mut().zip(&u) {
            *p -= 0.1 * size * u / excess;
        }
    }

    #[test]
    fn matrices_are_factored() {
        let device = Device::flex();
        let mut hand: Vec<f64> = vec![0.5, -1.0, 2.0, 0.1, 0.0, -0.3];
        let start: Vec<f32> = hand.iter().map(|x| *x as f32).collect();
        let mut param = Tensor::<1>::from_floats(start.as_slice(), &device);
        let (mut r, mut c) = (vec![0.0; 2], vec![0.0; 3]);
        let mut slots = Slots::new();
        for t in 1..=4u64 {
            let g: Vec<f64> = (0..6)
                .map(|i| ((i as u64 * 7 + t * 3) % 5) as f64 - 2.0)
                .collect();
            by_hand(t as f64, [2, 3], &mut hand, &g, &mut r, &mut c);
            let g: Vec<f32> = g.iter().map(|x| *x as f32).collect();
            let hyper = Hyper {
                lr: 0.1,
                weight_decay: 0.0,
                count: t,
            };
            let gradient = Tensor::from_floats(g.as_slice(), &device);
            param = RULE.update_shaped(hyper, &[2, 3], param, gradient, &mut slots);
            let found: Vec<f64> = param.to_data().iter::<f64>().collect();
            for (f, e) in found.iter().zip(&hand) {
                assert!(
                    (f - e).abs() < 1e-5,
                    "update {t}: {found:?}, expected {hand:?}"
                );
            }
        }
        assert_eq!((slots["row"].dims(), slots["column"].dims()), ([2], [3]));
        assert!(RULE.fits("row", 2, 6) && !RULE.fits("column", 4, 6) && !RULE.fits("v", 3, 6));
    }

    #[test]
    fn more_axes_are_matrices_side_by_side() {
        // The limit on the direction and the size of the parameter are those of the whole tensor, so one matrix twice moves
        // as it does alone.
        let device = Device::flex();
        let values = [0.5f32, -1.0, 2.0, 0.1, 0.0, -0.3];
        let gradient = [1.0f32, -2.0, 0.5, 3.0, -0.25, 4.0];
        let update = |shape: &[usize], times: usize| {
            let tensor = |x: &[f32]| Tensor::<1>::from_floats(x.repeat(times).as_slice(), &device);
            let (mut param, mut slots) = (tensor(&values), Slots::new());
            for count in 1..=3 {
                let hyper = Hyper {
                    lr: 0.1,
                    weight_decay: 0.0,
                    count,
                };
                param = RULE.update_shaped(hyper, shape, param, tensor(&gradient), &mut slots);
            }
            let sizes = (slots["row"].dims(), slots["column"].dims());
            (param.to_data().iter::<f32>().collect::<Vec<_>>(), sizes)
        };
        let (one, _) = update(&[2, 3], 1);
        let (three, sizes) = update(&[3, 2, 3], 3);
        assert_eq!(sizes, ([6], [9]));
        for (found, expected) in three.iter().zip(one.repeat(3)) {
            assert!((found - expected).abs() < 1e-6, "{three:?} and {one:?}");
        }
    }

    #[test]
    fn vectors_keep_everything_and_the_first_step_is_a_sign() {
        let device = Device::flex();
        let param = Tensor::<1>::from_floats([2.0, -2.0, 2.0], &device);
        let gradient = Tensor::from_floats([3.0, -0.1, 1e-3], &device);
        let hyper = Hyper {
            lr: 0.01,
            weight_decay: 0.0,
            count: 1,
        };
        let mut slots = Slots::new();
        let new = RULE.update_shaped(hyper, &[3], param, gradient, &mut slots);
        let found: Vec<f32> = new.to_data().iter::<f32>().collect();
        for (f, e) in found.iter().zip([1.98, -1.98, 1.98]) {
            assert!((f - e).abs() < 1e-5, "{found:?}");
        }
        assert_eq!(slots["v"].dims(), [3]);
    }
}
