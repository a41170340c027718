//! CPU time of threads by name, and memory of the process, as the kernel tells them.

use std::fs;

/// Nanoseconds that all threads of this process whose name begins with `prefix` have run, user and kernel.
pub fn thread_ns(prefix: &str) -> u64 {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return 0 };
    tasks
        .flatten()
        .filter(|task| {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            name.trim().starts_with(prefix)
        })
        .map(|task| {
            let precise = fs::read_to_string(task.path().join("sched")).ok();
            precise.and_then(|text| sum_exec_runtime(&text)).unwrap_or_else(|| {
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                let (user, system) = ticks(&stat).unwrap_or_default();
                (user + system) * TICK_NS
            })
        })
        .sum()
}

/// The same of the calling thread alone, to the nanosecond: what /proc says of a running thread is as old as its last tick.
pub fn own_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Bytes of memory that the process holds beside its code and beside heap and stack of its main thread: the other
/// threads' heaps (what is free in them too), stacks and large allocations.
pub fn other_threads_bytes() -> u64 {
    other_threads(&fs::read_to_string("/proc/self/smaps").unwrap_or_default())
}

/// Sum of `Anonymous:` over the mappings that are not the main thread's. The heap that grows by brk is: the allocator gives
/// every other thread an arena of its own.
fn other_threads(smaps: &str) -> u64 {
    let (mut kib, mut counts) = (0, false);
    for line in smaps.lines() {
        match line.strip_prefix("Anonymous:") {
            Some(size) if counts => {
                let size = size.trim().trim_end_matches(" kB");
                kib += size.parse::<u64>().unwrap_or(0);
            }
            Some(_) => {}
            // The first line of a mapping begins with its addresses.
            None if line.split(' ').next().is_some_and(|word| word.contains('-')) => {
                counts = !line.ends_with("[heap]") && !line.ends_with("[stack]");
            }
            None => {}
        }
    }
    kib * 1_024
}

/// USER_HZ is 100 on every Linux that there is.
const TICK_NS: u64 = 10_000_000;

/// `se.sum_exec_runtime : 1234.567890`, milliseconds.
fn sum_exec_runtime(sched: &str) -> Option<u64> {
    let line = sched.lines().find(|line| line.starts_with("se.sum_exec_runtime"))?;
    let (millis, nanos) = line.rsplit_once(':')?.1.trim().split_once('.')?;
    Some(millis.parse::<u64>().ok()? * 1_000_000 + nanos.parse::<u64>().ok()?)
}

/// User and system ticks of a line of /proc/PID/stat.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        let sched =
            "cat (1, #threads: 1)\nse.vruntime : 3.4\nse.sum_exec_runtime    :      12.000845\n";
        assert_eq!(sum_exec_runtime(sched), Some(12_000_845));
        let stat = "7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 31 42 0 0 20 0 1 0 5";
        assert_eq!(ticks(stat), Some((31, 42)));
    }

    #[test]
    fn a_named_thread_is_seen_to_run() {
        let spin = || {
            let before = thread_ns("spinner");
            let mut x = 1u64;
            while thread_ns("spinner") - before < 3_000_000 {
                x = std::hint::black_box(x.wrapping_mul(3));
            }
        };
        std::thread::Builder::new().name("spinner".into()).spawn(spin).unwrap().join().unwrap();
        assert!(other_threads_bytes() > 1 << 12);
        let smaps = "55d0-55d1 rw-p 00000000 00:00 0                          [heap]\n\
            Size:   132 kB\nAnonymous:    99 kB\nVmFlags: rd wr\n\
            7f00-7f01 rw-p 00000000 00:00 0 \nRss:     50 kB\nAnonymous:           40 kB\n\
            7f02-7f03 r-xp 00000000 fe:00 12   /usr/lib/libc.so.6\nAnonymous:     4 kB\n";
        assert_eq!(other_threads(smaps), 44 * 1_024);
    }
}
