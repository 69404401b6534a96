//! The most memory this process ever held, where the system tells.

use std::fs;

/// The high-water mark of resident memory in bytes; `None` where the system has none.
pub fn peak() -> Option<u64> {
    from_status(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Sets the mark back to what is resident now; `false` where the system does not allow it, and the mark counts from the start.
pub fn reset() -> bool {
    // 5 resets VmHWM, see proc_pid_clear_refs(5).
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

fn from_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_read_from_the_status() {
        let status = "Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 3 kB\n";
        assert_eq!(from_status(status), Some(2048 * 1024));
        assert_eq!(from_status("Name:\tx\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_mark_rises_with_what_is_held() {
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        let peak = peak().expect("Linux has a mark");
        assert!(peak >= block.len() as u64, "{peak}");
    }
}
