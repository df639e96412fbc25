//! How much memory the cache may take: a share of what the container has, divided among the zones.

use std::path::Path;

/// The share of the container's memory that all zones together take unless `memory_cache` says
/// otherwise: a quarter.
const SHARE: u64 = 4;

/// Where the kernel says nothing, as on a system without `/proc`: what a small machine has.
const UNKNOWN: u64 = 512 << 20;

/// Bytes that all zones together may take when the configuration does not say it.
pub fn default_bound() -> u64 {
    let root = Path::new("/");
    limit(root, &read(root, "proc/self/cgroup").unwrap_or_default()) / SHARE
}

/// The memory of this container or machine in bytes: the least of the limits of the process's
/// control group and those around it (version 2 or 1), and of what the machine has.
fn limit(root: &Path, groups: &str) -> u64 {
    let mut least = meminfo(&read(root, "proc/meminfo").unwrap_or_default()).unwrap_or(UNKNOWN);
    for line in groups.lines() {
        // `0::/path` is version 2; `5:memory:/path` is version 1.
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|c| c == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // A container sees its own group at the mount, whatever path it is told.
        for group in Path::new(group.trim_start_matches('/')).ancestors() {
            let path = Path::new(mount).join(group).join(file);
            let value = read(root, &path).and_then(|text| text.trim().parse::<u64>().ok());
            least = least.min(value.unwrap_or(u64::MAX));
        }
    }
    least
}

fn read(root: &Path, path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(root.join(path)).ok()
}

fn meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Divides `total` among zones that want `wants` bytes each (`None`: as much as there is). None
/// gets more than it wants; what one does not want, the others get.
pub fn divide(total: u64, wants: &[Option<u64>]) -> Vec<u64> {
    let mut shares = vec![0; wants.len()];
    let mut order: Vec<usize> = (0..wants.len()).collect();
    // The modest first: what they leave is shared by the others.
    order.sort_by_key(|i| wants[*i].unwrap_or(u64::MAX));
    let mut left = total;
    for (done, i) in order.iter().enumerate() {
        let even = left / (wants.len() - done) as u64;
        shares[*i] = wants[*i].unwrap_or(u64::MAX).min(even);
        left -= shares[*i];
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_least_limit_around_the_process_holds() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(limit(root.path(), ""), UNKNOWN);
        put("proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n");
        assert_eq!(limit(root.path(), "0::/\n"), 16 << 20);
        put("sys/fs/cgroup/a/b/memory.max", "max\n");
        put("sys/fs/cgroup/a/memory.max", "8388608\n");
        assert_eq!(limit(root.path(), "0::/a/b\n"), 8 << 20);
        put("sys/fs/cgroup/memory.max", "4194304\n");
        assert_eq!(limit(root.path(), "0::/not/mounted/here\n"), 4 << 20);
        put("sys/fs/cgroup/memory/c/memory.limit_in_bytes", "2097152\n");
        assert_eq!(limit(root.path(), "7:cpu:/c\n5:cpuset,memory:/c\n"), 2 << 20);
    }

    proptest! {
        #[test]
        fn a_division_is_fair(total in 0u64..1 << 40, wants in prop::collection::vec(prop::option::of(0u64..1 << 40), 1..6)) {
            let shares = divide(total, &wants);
            prop_assert!(shares.iter().sum::<u64>() <= total);
            for (share, want) in shares.iter().zip(&wants) {
                prop_assert!(want.is_none_or(|w| *share <= w));
                // Whoever got less than it wants has an even share at least.
                let satisfied = Some(*share) == *want;
                prop_assert!(satisfied || *share >= total / wants.len() as u64);
            }
        }
    }
}
