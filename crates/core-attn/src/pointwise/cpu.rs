//! Slice kernels: rows in parallel; sums that cross rows are gathered in a fixed number of parts and added in order, so any
//! number of threads gives the same bits.

use super::Gelu;
use crate::cpu::simd::{self, Task, dispatch, fma};
use rayon::prelude::*;

/// Parts in which sums over rows are gathered.
const PARTS: usize = 16;

/// Elements of work below which threads do not pay.
const SMALL: usize = 1 << 14;

/// Rows of a parallel piece: a function of the sizes alone.
fn rows_per_part(rows: usize, width: usize) -> usize {
    if rows * width < SMALL {
        rows.max(1)
    } else {
        rows.div_ceil(PARTS).max(1)
    }
}

/// Mean and `1/√(variance + ε)` of a row.
#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = simd::sum2(x, x, |a, _| a) / n;
    let variance = simd::sum2(x, x, |a, _| (a - mean) * (a - mean)) / n;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

pub(super) fn layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32) -> Vec<f32> {
    struct Rows<'a>(&'a [f32], &'a mut [f32], &'a [f32], &'a [f32], f32);
    impl Task for Rows<'_> {
        type Output = ();
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            let Self(x, out, gamma, beta, epsilon) = self;
            let width = gamma.len();
            for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
                let (mean, scale) = moments(x, epsilon);
                for i in 0..width {
                    out[i] = fma::<FMA>((x[i] - mean) * scale, gamma[i], beta[i]);
                }
            }
        }
    }

    let width = gamma.len();
    let part = rows_per_part(x.len() / width, width) * width;
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(part)
        .zip(x.par_chunks(part))
        .for_each(|(out, x)| dispatch(Rows(x, out, gamma, beta, epsilon)));
    out
}

/// Gradients with respect to `x`, `gamma` and `beta`.
pub(super) fn layer_norm_backward(
    x: &[f32],
    gamma: &[f32],
    grad: &[f32],
    epsilon: f32,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    struct Rows<'a> {
        x: &'a [f32],
        gamma: &'a [f32],
        grad: &'a [f32],
        out: &'a mut [f32],
        dgamma: &'a mut [f32],
        dbeta: &'a mut [f32],
        epsilon: f32,
    }
    impl Task for Rows<'_> {
        type Output = ();
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            let width = self.gamma.len();
            let rows = self
                .x
                .chunks_exact(width)
                .zip(self.grad.chunks_exact(width));
            for ((x, grad), out) in rows.zip(self.out.chunks_exact_mut(width)) {
                let (mean, scale) = moments(x, self.epsilon);
                for i in 0..width {
                    let normal = (x[i] - mean) * scale;
                    self.dgamma[i] = fma::<FMA>(grad[i], normal, self.dgamma[i]);
                    self.dbeta[i] += grad[i];
                    out[i] = grad[i] * self.gamma[i];
                }
                let n = width as f32;
                let sum = simd::sum2(out, out, |g, _| g) / n;
                let dot = simd::sum2(out, x, |g, x| g * (x - mean)) * scale * scale / n;
                for i in 0..width {
                    out[i] = (out[i] - sum - (x[i] - mean) * dot) * scale;
                }
            }
        }
    }

    let width = gamma.len();
    let part = rows_per_part(x.len() / width, width) * width;
    let mut out = vec![0.0; x.len()];
    let partial: Vec<(Vec<f32>, Vec<f32>)> = out
        .par_chunks_mut(part)
        .zip(x.par_chunks(part))
        .zip(grad.par_chunks(part))
        .map(|((out, x), grad)| {
            let (mut dgamma, mut dbeta) = (vec![0.0; width], vec![0.0; width]);
            dispatch(Rows {
                x,
                gamma,
                grad,
                out,
                dgamma: &mut dgamma,
                dbeta: &mut dbeta,
                epsilon,
            });
            (dgamma, dbeta)
        })
        .collect();
    let (dgamma, dbeta): (Vec<_>, Vec<_>) = partial.into_iter().unzip();
    (out, total(&dgamma, width), total(&dbeta, width))
}

fn total(parts: &[Vec<f32>], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for part in parts {
        for (a, b) in sum.iter_mut().zip(part) {
            *a += b;
        }
    }
    sum
}

/// The error function within about 2e−7, by a rational approximation on `[−4, 4]`.
#[inline(always)]
fn erf<const FMA: bool>(x: f32) -> f32 {
    let x = if x > 4.0 { 4.0 } else { x };
    let x = if x < -4.0 { -4.0 } else { x };
    let s = x * x;
    let mut p = fma::<FMA>(s, -2.726_142_3e-10, 2.770_681_4e-8);
    p = fma::<FMA>(p, s, -2.101_024_1e-6);
    p = fma::<FMA>(p, s, -5.692_506_4e-5);
    p = fma::<FMA>(p, s, -7.349_906_3e-4);
    p = fma::<FMA>(p, s, -2.954_6e-3);
    p = fma::<FMA>(p, s, -1.609_603_3e-2);
    let mut q = fma::<FMA>(s, -1.456_607_2e-5, -2.133_740_6e-4);
    q = fma::<FMA>(q, s, -1.682_827e-3);
    q = fma::<FMA>(q, s, -7.373_329e-3);
    q = fma::<FMA>(q, s, -1.426_473_9e-2);
    x * p / q
}

/// `1/(1 + e^{−x})` without cancellation on either side.
#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    let e = simd::exp::<FMA>(if x < 0.0 { x } else { -x });
    let small = e / (1.0 + e);
    if x < 0.0 { small } else { 1.0 / (1.0 + e) }
}

const SQRT_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;
const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

#[inline(always)]
fn gelu_one<const FMA: bool, const TANH: bool>(x: f32) -> f32 {
    if TANH {
        // (1 + tanh u)/2 is the sigmoid of 2u.
        x * sigmoid::<FMA>(2.0 * SQRT_2_OVER_PI * fma::<FMA>(CUBIC * x * x, x, x))
    } else {
        0.5 * x * (1.0 + erf::<FMA>(x * SQRT_HALF))
    }
}

#[inline(always)]
fn gelu_slope<const FMA: bool, const TANH: bool>(x: f32) -> f32 {
    if TANH {
        let s = sigmoid::<FMA>(2.0 * SQRT_2_OVER_PI * fma::<FMA>(CUBIC * x * x, x, x));
        let inner = 2.0 * SQRT_2_OVER_PI * fma::<FMA>(3.0 * CUBIC * x, x, 1.0);
        s + x * s * (1.0 - s) * inner
    } else {
        // 1/√(2π)
        let density = 0.398_942_3 * simd::exp::<FMA>(-0.5 * x * x);
        fma::<FMA>(x, density, 0.5 * (1.0 + erf::<FMA>(x * SQRT_HALF)))
    }
}

/// `bias` is empty or one row.
pub(super) fn gelu(x: &[f32], bias: &[f32], width: usize, kind: Gelu) -> Vec<f32> {
    struct Rows<'a, const TANH: bool>(&'a [f32], &'a [f32], &'a mut [f32], usize);
    impl<const TANH: bool> Task for Rows<'_, TANH> {
        type Output = ();
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            let Self(x, bias, out, width) = self;
            if bias.is_empty() {
                for (o, x) in out.iter_mut().zip(x) {
                    *o = gelu_one::<FMA, TANH>(*x);
                }
                return;
            }
            for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
                for i in 0..width {
                    out[i] = gelu_one::<FMA, TANH>(x[i] + bias[i]);
                }
            }
        }
    }

    let part = rows_per_part(x.len() / width, width) * width;
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(part)
        .zip(x.par_chunks(part))
        .for_each(|(out, x)| match kind {
            Gelu::Exact => dispatch(Rows::<false>(x, bias, out, width)),
            Gelu::Tanh => dispatch(Rows::<true>(x, bias, out, width)),
        });
    out
}

/// Gradients with respect to `x` and, where there is one, the bias.
pub(super) fn gelu_backward(
    x: &[f32],
    bias: &[f32],
    grad: &[f32],
    width: usize,
    kind: Gelu,
) -> (Vec<f32>, Vec<f32>) {
    struct Rows<'a, const TANH: bool> {
        x: &'a [f32],
        bias: &'a [f32],
        grad: &'a [f32],
        out: &'a mut [f32],
        dbias: &'a mut [f32],
        width: usize,
    }
    impl<const TANH: bool> Task for Rows<'_, TANH> {
        type Output = ();
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            if self.bias.is_empty() {
                for ((o, x), g) in self.out.iter_mut().zip(self.x).zip(self.grad) {
                    *o = g * gelu_slope::<FMA, TANH>(*x);
                }
                return;
            }
            let width = self.width;
            let rows = self
                .x
                .chunks_exact(width)
                .zip(self.grad.chunks_exact(width));
            for ((x, grad), out) in rows.zip(self.out.chunks_exact_mut(width)) {
                for i in 0..width {
                    out[i] = grad[i] * gelu_slope::<FMA, TANH>(x[i] + self.bias[i]);
                    self.dbias[i] += out[i];
                }
            }
        }
    }

    let part = rows_per_part(x.len() / width, width) * width;
    let mut out = vec![0.0; x.len()];
    let partial: Vec<Vec<f32>> = out
        .par_chunks_mut(part)
        .zip(x.par_chunks(part))
        .zip(grad.par_chunks(part))
        .map(|((out, x), grad)| {
            let mut dbias = vec![0.0; bias.len()];
            macro_rules! rows {
                ($tanh:literal) => {
                    dispatch(Rows::<$tanh> {
                        x,
                        bias,
                        grad,
                        out,
                        dbias: &mut dbias,
                        width,
                    })
                };
            }
            match kind {
                Gelu::Exact => rows!(false),
                Gelu::Tanh => rows!(true),
            }
            dbias
        })
        .collect();
    (out, total(&partial, bias.len()))
}

/// Per row `log Σ e^x − x[target]`; NaN where the target is no class.
pub(super) fn cross_entropy(logits: &[f32], targets: &[f32], classes: usize) -> Vec<f32> {
    struct Rows<'a>(&'a [f32], &'a [f32], &'a mut [f32], usize);
    impl Task for Rows<'_> {
        type Output = ();
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            let Self(logits, targets, out, classes) = self;
            let mut buffer = vec![0.0; classes];
            let rows = logits.chunks_exact(classes).zip(targets);
            for ((row, target), out) in rows.zip(out) {
                let top = simd::max(row);
                buffer.copy_from_slice(row);
                let sum = simd::exp_sum::<FMA>(&mut buffer, top);
                *out = match class(*target, classes) {
                    Some(i) => top + sum.ln() - row[i],
                    None => f32::NAN,
                };
            }
        }
    }

    let part = rows_per_part(targets.len(), classes);
    let mut out = vec![0.0; targets.len()];
    out.par_chunks_mut(part)
        .zip(logits.par_chunks(part * classes))
        .zip(targets.par_chunks(part))
        .for_each(|((out, logits), targets)| dispatch(Rows(logits, targets, out, classes)));
    out
}

fn class(target: f32, classes: usize) -> Option<usize> {
    (target >= 0.0 && target < classes as f32).then_some(target as usize)
}

/// `(softmax − one-hot)·grad` per row.
pub(super) fn cross_entropy_backward(
    logits: &[f32],
    targets: &[f32],
    grad: &[f32],
    classes: usize,
) -> Vec<f32> {
    struct Rows<'a>(&'a [f32], &'a [f32], &'a [f32], &'a mut [f32], usize);
    impl Task for Rows<'_> {
        type Output = ();
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            let Self(logits, targets, grad, out, classes) = self;
            let rows = logits
                .chunks_exact(classes)
                .zip(out.chunks_exact_mut(classes));
            for (((row, out), target), g) in rows.zip(targets).zip(grad) {
                out.copy_from_slice(row);
                let sum = simd::exp_sum::<FMA>(out, simd::max(row));
                let scale = g / sum;
                for o in out.iter_mut() {
                    *o *= scale;
                }
                match class(*target, classes) {
                    Some(i) => out[i] -= g,
                    None => out.fill(f32::NAN),
                }
            }
        }
    }

    let part = rows_per_part(targets.len(), classes);
    let mut out = vec![0.0; logits.len()];
    out.par_chunks_mut(part * classes)
        .zip(logits.par_chunks(part * classes))
        .zip(targets.par_chunks(part).zip(grad.par_chunks(part)))
        .for_each(|((out, logits), (targets, grad))| {
            dispatch(Rows(logits, targets, grad, out, classes));
        });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `2/√π·∫₀ˣ e^{−t²} dt` by Simpson's rule in f64.
    fn exact_erf(x: f64) -> f64 {
        let n = 4000;
        let h = x / f64::from(n);
        let f = |t: f64| (-t * t).exp();
        let mut sum = f(0.0) + f(x);
        for i in 1..n {
            sum += f(f64::from(i) * h) * if i % 2 == 1 { 4.0 } else { 2.0 };
        }
        sum * h / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn erf_and_sigmoid_are_close() {
        for i in -500..=500 {
            let x = i as f32 * 0.0123;
            let off = (f64::from(erf::<false>(x)) - exact_erf(f64::from(x))).abs();
            assert!(off < 4e-7, "erf({x}) is off by {off:e}");
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            let off = (f64::from(sigmoid::<false>(x)) - exact).abs() / exact;
            assert!(off < 4e-7, "sigmoid({x}) is off by a share of {off:e}");
        }
        assert_eq!(sigmoid::<true>(-1e9), 0.0);
        assert_eq!(sigmoid::<true>(1e9), 1.0);
        assert!(erf::<false>(f32::NAN).is_nan());
    }
}
