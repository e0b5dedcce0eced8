//! CPU time and memory of this process, as Linux tells them in `/proc/self`. Elsewhere there is nothing to tell.

use std::fs;

/// What `/proc` counts CPU time in: a hundredth of a second on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time used so far, in seconds, user and system.
pub(super) fn cpu_seconds() -> Option<f64> {
    cpu_seconds_of(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// Memory in RAM, in bytes.
pub(super) fn resident_bytes() -> Option<u64> {
    resident_bytes_of(&fs::read_to_string("/proc/self/status").ok()?)
}

fn cpu_seconds_of(stat: &str) -> Option<f64> {
    // The second field is the program's name in brackets, and may itself hold blanks and brackets.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user.saturating_add(system) as f64 / TICKS_PER_SECOND)
}

fn resident_bytes_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_brackets_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 900 0 0 0 150 25 0 0 20 0 4 0 300 1000 10";
        assert_eq!(cpu_seconds_of(stat), Some(1.75));
        assert_eq!(cpu_seconds_of("42 (a"), None);
    }

    #[test]
    fn resident_memory_is_read_in_kib() {
        assert_eq!(resident_bytes_of("Name:\ta\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2_097_152));
        assert_eq!(resident_bytes_of("Name:\ta\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 0));
        assert!(cpu_seconds().is_some());
    }
}
