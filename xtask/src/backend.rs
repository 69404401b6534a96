//! The backends, chosen at run time.

use crate::fail::usage;
use crate::format::shell_word;
use burn::tensor::Device;
use serde::Serialize;

/// Where tensors live and who computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// Burn's fast CPU backend.
    Flex,
    /// A second CPU implementation, independent of the first.
    Ndarray,
    /// GPUs through Vulkan, Metal or DirectX.
    Wgpu,
}

impl Backend {
    /// All backends, compiled in or not.
    pub const ALL: [Self; 3] = [Self::Flex, Self::Ndarray, Self::Wgpu];

    /// Its name in recipes and flags, which is also the name of the feature that compiles it in.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Ndarray => "ndarray",
            Self::Wgpu => "wgpu",
        }
    }

    /// What the flag says, else the recipe, else flex.
    ///
    /// # Errors
    /// When the recipe names a backend that does not exist.
    pub fn choose(flag: Option<Self>, recipe: Option<&str>) -> anyhow::Result<Self> {
        let Some(name) = recipe.filter(|_| flag.is_none()) else {
            return Ok(flag.unwrap_or(Self::Flex));
        };
        let found = Self::ALL.into_iter().find(|backend| backend.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name);
            let hint = match pretrained::did_you_mean(name, names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are: {}", names.join(", ")),
            };
            usage(format!(
                "the recipe's backend `{name}` does not exist; {hint}"
            ))
        })
    }

    /// Whether this program was built with it.
    pub fn compiled(self) -> bool {
        match self {
            Self::Flex => cfg!(feature = "flex"),
            Self::Ndarray => cfg!(feature = "ndarray"),
            Self::Wgpu => cfg!(feature = "wgpu"),
        }
    }

    /// The device, without automatic differentiation; `command` is the command line, for the advice how to get a backend that is
    /// not compiled in.
    ///
    /// # Errors
    /// When the backend is not compiled in or has no adapter here.
    pub fn device(self, command: &[String]) -> anyhow::Result<Device> {
        match self {
            #[cfg(feature = "flex")]
            Self::Flex => Ok(Device::flex()),
            #[cfg(feature = "ndarray")]
            // Deprecated upstream; it is kept as a second opinion.
            Self::Ndarray => Ok(
                #[allow(deprecated)]
                Device::ndarray(),
            ),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => wgpu(),
            #[allow(
                unreachable_patterns,
                reason = "with every backend compiled in nothing is left"
            )]
            absent => {
                let words: Vec<String> = command.iter().map(|word| shell_word(word)).collect();
                let name = absent.name();
                Err(usage(format!(
                    "the backend `{name}` is not compiled into this program; run: cargo run -p xtask --features {name} -- {}",
                    words.join(" ")
                )))
            }
        }
    }

    /// The device in words.
    pub fn describe(self, threads: usize) -> String {
        match self {
            Self::Flex | Self::Ndarray if threads == 1 => "CPU, 1 thread".to_owned(),
            Self::Flex | Self::Ndarray => format!("CPU, {threads} threads"),
            Self::Wgpu => "the default adapter".to_owned(),
        }
    }

    /// By how much tolerances are widened on it: a GPU adds up in another order.
    pub fn widen(self) -> f64 {
        match self {
            Self::Flex | Self::Ndarray => 1.0,
            Self::Wgpu => 10.0,
        }
    }
}

/// The first adapter that runs an operation. Burn opens it at the first use and panics where there is none.
#[cfg(feature = "wgpu")]
fn wgpu() -> anyhow::Result<Device> {
    use burn::tensor::{DeviceKind, Tensor};
    let mut reason = String::new();
    for kind in [DeviceKind::DefaultDevice, DeviceKind::Cpu] {
        let device = Device::wgpu(kind);
        let probe = || Tensor::<1>::ones([4], &device).sum().into_scalar::<f32>();
        match crate::panics::caught(probe) {
            Ok(4.0) => return Ok(device),
            Ok(sum) => reason = format!("the adapter adds up 1 + 1 + 1 + 1 to {sum}"),
            Err(panic) => reason = panic,
        }
    }
    Err(anyhow::anyhow!(
        "the backend `wgpu` finds no usable adapter on this machine ({reason}); install a driver (on Debian without a GPU: mesa-vulkan-drivers), or use --backend flex"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_wins_over_the_recipe_and_flex_is_the_rest() {
        let choose = |flag, recipe| Backend::choose(flag, recipe).map_err(|e| e.to_string());
        assert_eq!(choose(None, None), Ok(Backend::Flex));
        assert_eq!(choose(None, Some("ndarray")), Ok(Backend::Ndarray));
        assert_eq!(
            choose(Some(Backend::Flex), Some("ndarray")),
            Ok(Backend::Flex)
        );
        let error = choose(None, Some("ndaray")).expect_err("misspelt");
        assert!(error.contains("did you mean `ndarray`?"), "{error}");
    }

    #[test]
    fn an_absent_backend_is_answered_with_the_command_that_enables_it() {
        if Backend::Wgpu.compiled() {
            return;
        }
        let command = ["train", "a b.json"].map(str::to_owned);
        let error = Backend::Wgpu.device(&command).expect_err("not compiled in");
        let expected = "cargo run -p xtask --features wgpu -- train 'a b.json'";
        assert!(error.to_string().contains(expected), "{error}");
    }
}
