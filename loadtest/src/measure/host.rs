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

/// What all cores together have done since the machine started, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cores {
    /// All ticks, idle ones included.
    pub(crate) all: u64,
    pub(crate) idle: u64,
    /// Of packets, for the most part.
    pub(crate) softirq: u64,
    /// Taken by other guests of the host.
    pub(crate) steal: u64,
}

impl Cores {
    pub(crate) fn now() -> Option<Self> {
        Self::read(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// The first line: user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user time.
    fn read(stat: &str) -> Option<Self> {
        let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
        let ticks: Vec<u64> = fields.take(8).map_while(|text| text.parse().ok()).collect();
        let [.., idle, waiting, _, softirq, steal] = ticks[..] else { return None };
        Some(Self { all: ticks.iter().sum(), idle: idle + waiting, softirq, steal })
    }

    /// Shares since an earlier reading, in percent of all cores: busy, softirq, steal.
    pub(crate) fn since(self, earlier: Self) -> Option<[f64; 3]> {
        let all = self.all.checked_sub(earlier.all).filter(|all| *all > 0)? as f64;
        let share = |now: u64, before: u64| now.saturating_sub(before) as f64 * 100.0 / all;
        Some([
            100.0 - share(self.idle, earlier.idle),
            share(self.softirq, earlier.softirq),
            share(self.steal, earlier.steal),
        ])
    }
}

/// Files that this process may have open at a time; `None` when nobody says.
pub(crate) fn open_files_limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
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

    #[test]
    fn what_the_cores_did_is_read() {
        let before = Cores::read("cpu  100 5 50 800 20 1 24 0 0 0\ncpu0 1 2 3\n").unwrap();
        assert_eq!(before, Cores { all: 1_000, idle: 820, softirq: 24, steal: 0 });
        let after = Cores::read("cpu  150 5 80 850 20 1 74 20 0 0").unwrap();
        assert_eq!(after.since(before), Some([75.0, 25.0, 10.0]));
        assert_eq!(before.since(before), None, "no time has passed");
        assert_eq!(Cores::read("intr 1 2 3"), None);
        assert!(Cores::now().unwrap().all > 0);
        assert!(open_files_limit().is_some_and(|files| files > 16));
    }
}
