//! How much memory the process has used, and how much the machine has left.

use std::fs;

/// Returns the largest resident size of this process so far, in bytes; `None` where the system does not tell.
pub fn peak_memory_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Returns the bytes that can still be used without swapping, within the limits of the control group; `None` where
/// the system does not tell.
pub fn available_memory_bytes() -> Option<u64> {
    let machine = kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    // `memory.max` holds the word "max" where there is no limit.
    let limit = number("/sys/fs/cgroup/memory.max");
    let used = number("/sys/fs/cgroup/memory.current").unwrap_or(0);
    Some(limit.map_or(machine, |limit| machine.min(limit.saturating_sub(used))))
}

fn kilobytes(table: &str, key: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

/// Writes bytes for people: "1.50 GiB".
pub fn human_bytes(bytes: u64) -> String {
    let steps = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match steps.into_iter().find(|&(unit, _)| bytes >= unit) {
        Some((unit, name)) => format!("{:.2} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_tables_are_read_in_bytes() {
        let table = "VmPeak:\t   9 kB\nVmHWM:\t  123456 kB\nVmRSS: x kB\n";
        assert_eq!(kilobytes(table, "VmHWM:"), Some(123_456 * 1024));
        assert_eq!(kilobytes(table, "VmRSS:"), None);
        assert_eq!(kilobytes(table, "VmSwap:"), None);
    }

    #[test]
    fn bytes_for_people() {
        assert_eq!(human_bytes(512), "512 B");
        assert_eq!(human_bytes(1536 << 20), "1.50 GiB");
        assert_eq!(human_bytes(2048), "2.00 KiB");
    }
}
