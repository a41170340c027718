//! What processes cost, from the operating system's accounting.

use std::{fs, time::Duration};

use serde::{Deserialize, Serialize};

/// Ticks a second in `/proc/PID/stat`: USER_HZ, 100 on every Linux platform that Rust supports.
const TICKS: u64 = 100;

/// A process on this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(pub(crate) u32);

/// What it has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// User and system time of all its threads.
    pub(crate) cpu: Duration,
    /// Of that, system time.
    pub(crate) system: Duration,
    /// Resident memory in bytes.
    pub(crate) memory: u64,
}

impl Process {
    pub(crate) fn own() -> Self {
        Self(std::process::id())
    }

    /// `None` when there is no such process (any more).
    pub(crate) fn usage(self) -> Option<Usage> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?;
        // The name may hold spaces and parentheses: fields are counted from its end.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<u64>().ok());
        let (user, system) = (ticks(11)?, ticks(12)?);
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kilobytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
        let time = |ticks: u64| Duration::from_millis(ticks * 1_000 / TICKS);
        Some(Usage { cpu: time(user + system), system: time(system), memory: kilobytes * 1_024 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_uses_time() {
        let usage = Process::own().usage().unwrap();
        assert!(usage.memory > 1 << 20, "{usage:?}");
        let mut sum = 0_u64;
        while Process::own().usage().unwrap().cpu < usage.cpu + Duration::from_millis(50) {
            sum = sum.wrapping_mul(31).wrapping_add(1);
        }
        assert!(sum > 0);
        assert_eq!(Process(u32::MAX).usage(), None);
    }
}
