//! What a training step costs, for dry runs and benchmarks.

use crate::{Context, Error, Experiment, Result, Step, memory, scalars};
use std::time::Instant;

/// What a training step costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The median time of a step, in milliseconds.
    pub ms_per_step: f64,
    /// What a step consumes per second, and its unit.
    pub work_per_second: Option<(f64, &'static str)>,
    /// The most memory held during the measured steps, in bytes, where the system tells.
    pub peak_memory: Option<u64>,
}

/// Runs `warm_up` steps of the first stage without and `steps` steps with a clock. The experiment is changed by that.
///
/// The scalars of every step are read, so that a device that works behind the caller's back is waited for.
///
/// # Errors
/// When `steps` is 0 or a step fails.
pub fn measure(
    experiment: &mut dyn Experiment,
    seed: u64,
    warm_up: u64,
    steps: u64,
    cx: &mut Context,
) -> Result<Measured> {
    experiment.begin_stage(0, cx)?;
    let mut times = Vec::new();
    for step in 0..warm_up + steps {
        if cx.cancelled() {
            return Err(Error::cancelled());
        }
        if step == warm_up {
            memory::reset();
        }
        let start = Instant::now();
        let scalars = experiment.train_step(Step::new(seed, 0, step, step), cx)?;
        scalars::read(vec![scalars])?;
        if step >= warm_up {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        cx.progress(step + 1, warm_up + steps, "measuring");
    }
    times.sort_by(f64::total_cmp);
    let ms_per_step = match times.as_slice() {
        [] => {
            return Err(Error::value(
                "the number of steps to measure",
                0,
                "at least 1",
            ));
        }
        times if times.len() % 2 == 1 => times[times.len() / 2],
        times => (times[times.len() / 2 - 1] + times[times.len() / 2]) / 2.0,
    };
    Ok(Measured {
        ms_per_step,
        work_per_second: experiment
            .work_per_step()
            .map(|work| (work.amount * 1e3 / ms_per_step.max(1e-9), work.unit)),
        peak_memory: memory::peak(),
    })
}
