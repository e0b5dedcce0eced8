//! What a proxy uses of the machine: processor time and memory of its processes and all their children, from `/proc`;
//! and what is left of it.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use procfs::process::{Process, Stat, all_processes};
use procfs::{CurrentSI, KernelStats};
use serde::{Deserialize, Serialize};

/// The memory of a proxy's processes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The most that was resident of each process, added up. What processes share counts for each of them.
    pub rss_peak: u64,
    /// What is resident, each shared page divided among those that share it; `None` where the kernel does not say.
    pub pss: Option<u64>,
}

/// The processor time that these processes, their descendants and their ended children have used so far.
///
/// # Errors
/// When one of the named processes is not there.
pub fn used(pids: &[u32]) -> io::Result<Duration> {
    let ticks: u64 = family(pids)?.iter().map(ticks).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64))
}

/// How long processors had nothing to do so far, all of the machine's added up, if the kernel tells.
pub fn idle() -> Option<Duration> {
    Some(KernelStats::current().ok()?.total.idle_duration())
}

/// The memory of these processes and their descendants.
///
/// # Errors
/// When one of the named processes is not there.
pub fn memory(pids: &[u32]) -> io::Result<Memory> {
    let mut memory = Memory { rss_peak: 0, pss: Some(0) };
    for member in family(pids)? {
        // A child may have ended since.
        let Ok(process) = Process::new(member.pid) else { continue };
        let Ok(status) = process.status() else { continue };
        memory.rss_peak += status.vmhwm.unwrap_or(0) * 1024;
        memory.pss = memory.pss.zip(pss(&process)).map(|(sum, own)| sum + own);
    }
    Ok(memory)
}

/// What is resident now of these processes and their descendants, in bytes.
///
/// # Errors
/// When one of the named processes is not there.
pub fn resident(pids: &[u32]) -> io::Result<u64> {
    Ok(family(pids)?.iter().map(|stat| stat.rss * procfs::page_size()).sum())
}

/// These processes and their descendants.
fn family(pids: &[u32]) -> io::Result<Vec<Stat>> {
    let stats: Vec<Stat> = all_processes()
        .map_err(io::Error::other)?
        .filter_map(|process| process.and_then(|process| process.stat()).ok())
        .collect();
    let mut family = HashSet::new();
    for pid in pids {
        let pid =
            i32::try_from(*pid).map_err(|_| io::Error::other(format!("process {pid}: no number of one")))?;
        Process::new(pid).map_err(|error| io::Error::other(format!("process {pid}: {error}")))?;
        family.insert(pid);
    }
    // A child may be listed before its parent, so this goes on until nobody joins.
    let mut before = 0;
    while family.len() > before {
        before = family.len();
        let children = stats.iter().filter(|stat| family.contains(&stat.ppid)).map(|stat| stat.pid);
        let children: Vec<i32> = children.collect();
        family.extend(children);
    }
    Ok(stats.into_iter().filter(|stat| family.contains(&stat.pid)).collect())
}

fn ticks(stat: &Stat) -> u64 {
    let children = stat.cutime.saturating_add(stat.cstime).max(0);
    stat.utime + stat.stime + children.cast_unsigned()
}

fn pss(process: &Process) -> Option<u64> {
    let maps = process.smaps_rollup().ok()?.memory_map_rollup;
    maps.iter().find_map(|map| map.extension.map.get("Pss").copied())
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

    #[test]
    fn idle_time_only_grows() {
        let before = idle().unwrap();
        assert!(before > Duration::ZERO && idle().unwrap() >= before);
    }

    #[test]
    fn the_memory_of_a_grandchild_counts_and_shared_pages_count_once() {
        // The second shell is a child of the first, and both wait for a line.
        let mut child = Command::new("sh")
            .args(["-c", "sh -c 'read line; true'; true"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = router_core::clock::Clock::system().now() + Duration::from_secs(20);
        while family(&[child.id()]).unwrap().len() < 2 {
            assert!(router_core::clock::Clock::system().now() < deadline, "there is no grandchild");
            std::thread::yield_now();
        }
        let first = resident(&[child.id()]).unwrap();
        let memory = memory(&[child.id()]).unwrap();
        assert!(first > 0 && memory.rss_peak > 100 * 1024, "{memory:?}");
        assert!(memory.pss.is_none_or(|pss| pss > 0 && pss < memory.rss_peak), "{memory:?}");
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
