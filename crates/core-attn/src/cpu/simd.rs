//! Plain loops compiled once per instruction set and chosen at run time.
//!
//! Every function here is `#[inline(always)]` and free of intrinsics: inlined into [`dispatch`]'s three instances it is
//! vectorised for AVX-512, AVX2 or the build's baseline (NEON, SSE2). `FMA` tells whether `mul_add` is one instruction;
//! without it `mul_add` would be a call into libm.

/// Work that [`dispatch`] runs with the widest instruction set the machine has.
pub(crate) trait Task {
    type Output;
    fn run<const FMA: bool>(self) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
fn with_avx512<T: Task>(task: T) -> T::Output {
    task.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2<T: Task>(task: T) -> T::Output {
    task.run::<true>()
}

/// Runs `task` with the widest instruction set the machine has.
#[inline]
pub(crate) fn dispatch<T: Task>(task: T) -> T::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("fma")
        {
            // SAFETY: the features that `with_avx512` enables were detected on this machine.
            return unsafe { with_avx512(task) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features that `with_avx2` enables were detected on this machine.
            return unsafe { with_avx2(task) };
        }
    }
    task.run::<{ cfg!(target_arch = "aarch64") }>()
}

#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` within two units in the last place for `x <= 88`; exactly 0 below −87 (and for −∞); NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it leaves round(x) in the low bits
    let tiny = x < -87.0;
    let x = if tiny { -87.0 } else { x };
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, so that n·ln 2 is subtracted without loss.
    let r = fma::<FMA>(n, -0.693_145_75, x);
    let r = fma::<FMA>(n, -1.428_606_8e-6, r);
    let mut y = fma::<FMA>(r, 1.0 / 5040.0, 1.0 / 720.0);
    y = fma::<FMA>(y, r, 1.0 / 120.0);
    y = fma::<FMA>(y, r, 1.0 / 24.0);
    y = fma::<FMA>(y, r, 1.0 / 6.0);
    y = fma::<FMA>(y, r, 0.5);
    y = fma::<FMA>(y, r, 1.0);
    y = fma::<FMA>(y, r, 1.0);
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if tiny { 0.0 } else { y * scale }
}

const LANES: usize = 16;

/// Sum of `f(a[i], b[i])`, in an order that depends on the length alone.
#[inline(always)]
pub(crate) fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (ac, at) = a.as_chunks::<LANES>();
    let (bc, bt) = b.as_chunks::<LANES>();
    for (x, y) in ac.iter().zip(bc) {
        for i in 0..LANES {
            lanes[i] += f(x[i], y[i]);
        }
    }
    let mut tail = 0.0;
    for (&x, &y) in at.iter().zip(bt) {
        tail += f(x, y);
    }
    fold(lanes) + tail
}

#[inline(always)]
fn fold(lanes: [f32; LANES]) -> f32 {
    let mut n = LANES / 2;
    let mut lanes = lanes;
    while n > 0 {
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
        n /= 2;
    }
    lanes[0]
}

/// The largest element; −∞ for an empty slice. NaN is skipped.
#[inline(always)]
pub(crate) fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, tail) = a.as_chunks::<LANES>();
    for x in chunks {
        for i in 0..LANES {
            lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
        }
    }
    let mut best = f32::NEG_INFINITY;
    for &x in lanes.iter().chain(tail) {
        best = if x > best { x } else { best };
    }
    best
}

/// Replaces every `x` by `e^(x − shift)` and returns their sum.
#[inline(always)]
pub(crate) fn exp_sum<const FMA: bool>(a: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, tail) = a.as_chunks_mut::<LANES>();
    for x in chunks {
        for i in 0..LANES {
            x[i] = exp::<FMA>(x[i] - shift);
            lanes[i] += x[i];
        }
    }
    let mut rest = 0.0;
    for x in tail {
        *x = exp::<FMA>(*x - shift);
        rest += *x;
    }
    fold(lanes) + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp(Vec<f32>);
    impl Task for Exp {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<const FMA: bool>(mut self) -> Vec<f32> {
            for x in &mut self.0 {
                *x = exp::<FMA>(*x);
            }
            self.0
        }
    }

    #[test]
    fn exp_is_exact_to_two_units() {
        let xs: Vec<f32> = (0..200_000).map(|i| -86.9 + i as f32 * 8.0e-4).collect();
        for ys in [dispatch(Exp(xs.clone())), Exp(xs.clone()).run::<false>()] {
            for (x, y) in xs.iter().zip(ys) {
                let exact = f64::from(*x).exp();
                let error = (f64::from(y) - exact).abs() / exact;
                assert!(error < 2.5e-7, "exp({x}) = {y}, off by {error:e}");
            }
        }
        let edge = dispatch(Exp(vec![f32::NEG_INFINITY, -1e30, f32::NAN, 0.0]));
        assert_eq!(edge[0], 0.0);
        assert_eq!(edge[1], 0.0);
        assert!(edge[2].is_nan());
        assert_eq!(edge[3], 1.0);
    }

    #[test]
    fn reductions_at_odd_lengths() {
        for n in [0usize, 1, 15, 16, 17, 63, 100] {
            let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
            let exact: f64 = a.iter().map(|x| f64::from(*x)).sum();
            assert!((f64::from(sum2(&a, &a, |x, _| x)) - exact).abs() < 1e-5);
            assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
