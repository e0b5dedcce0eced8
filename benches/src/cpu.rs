//! The processor time of a proxy: user and system time of its processes and all their children, from `/proc`.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use procfs::process::{Process, Stat, all_processes};

/// The processor time that these processes, their descendants and their ended children have used so far.
///
/// # Errors
/// When one of the named processes is not there.
pub fn used(pids: &[u32]) -> io::Result<Duration> {
    let stats: Vec<Stat> = all_processes()
        .map_err(io::Error::other)?
        .filter_map(|process| process.and_then(|process| process.stat()).ok())
        .collect();
    let mut family = HashSet::new();
    for pid in pids {
        let pid = i32::try_from(*pid).map_err(io::Error::other)?;
        Process::new(pid).map_err(|error| io::Error::other(format!("process {pid}: {error}")))?;
        family.insert(pid);
    }
    // A child may be listed before its parent, so this goes on until nobody joins.
    let mut before = 0;
    while family.len() > before {
        before = family.len();
        family.extend(
            stats.iter().filter(|stat| stats_parent(stat, &family)).map(|stat| stat.pid).collect::<Vec<_>>(),
        );
    }
    let ticks: u64 = stats.iter().filter(|stat| family.contains(&stat.pid)).map(ticks).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64))
}

fn stats_parent(stat: &Stat, family: &HashSet<i32>) -> bool {
    family.contains(&stat.ppid)
}

fn ticks(stat: &Stat) -> u64 {
    let children = stat.cutime.saturating_add(stat.cstime).max(0);
    stat.utime + stat.stime + children.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_time_of_a_child_counts() {
        let mut child = Command::new("sh")
            .args(["-c", "(i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done); read line"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = router_core::clock::Clock::system().now() + Duration::from_secs(20);
        while used(&[child.id()]).unwrap() < Duration::from_millis(50) {
            assert!(router_core::clock::Clock::system().now() < deadline, "the child's time was not seen");
            std::thread::yield_now();
        }
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(used(&[child.id()]).is_err());
    }
}
