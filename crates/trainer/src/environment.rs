//! Where a run took place.

use serde::{Deserialize, Serialize};
use std::fs;
use std::time::SystemTime;

/// Where and with what a run took place; stored as `environment.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// When this session started, UTC.
    pub started: String,
    /// The backend.
    pub backend: String,
    /// The device, in words.
    pub device: String,
    /// How many threads the backend may use.
    pub threads: usize,
    /// The command line.
    pub command: Vec<String>,
    /// The operating system and the processor's architecture.
    pub system: String,
    /// The processor, where the system tells.
    pub processor: Option<String>,
    /// Memory of the machine in bytes, where the system tells.
    pub memory: Option<u64>,
    /// The version of this crate.
    pub version: String,
}

impl Environment {
    /// Looks around; the caller says what only it knows.
    pub fn collect(backend: &str, device: &str, threads: usize, command: Vec<String>) -> Self {
        let processor = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|l| l.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(kib * 1024)
        });
        Self {
            started: crate::log::timestamp(SystemTime::now()),
            backend: backend.to_owned(),
            device: device.to_owned(),
            threads,
            command,
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processor,
            memory,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Name and value of each fact, for people.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![
            ("started", self.started.clone()),
            ("backend", format!("{} ({})", self.backend, self.device)),
            ("threads", self.threads.to_string()),
            ("system", self.system.clone()),
        ];
        if let Some(processor) = &self.processor {
            facts.push(("processor", processor.clone()));
        }
        if let Some(memory) = self.memory {
            facts.push((
                "memory",
                format!("{:.1} GiB", memory as f64 / (1u64 << 30) as f64),
            ));
        }
        facts.push(("version", self.version.clone()));
        if !self.command.is_empty() {
            facts.push(("command", self.command.join(" ")));
        }
        facts
    }
}
