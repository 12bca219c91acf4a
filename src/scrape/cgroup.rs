//! The memory limit of the container.

use std::path::Path;

/// The memory budget where neither a setting nor a cgroup limits it.
const DEFAULT_BUDGET_BYTES: u64 = 2 << 30;

/// Larger limits of cgroup v1 mean that there is none; the kernel rounds its "unlimited" down to a page.
const UNLIMITED: u64 = 1 << 60;

/// The default of `--memory-budget`: 60 % of the cgroup's memory limit, else 2 GiB. The rest is for what is not counted:
/// the program itself, the pod list, connections, and what the allocator keeps.
pub(super) fn default_budget_bytes() -> u64 {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    match limit_bytes(Path::new("/sys/fs/cgroup"), &cgroups) {
        Some(limit) => limit / 10 * 6,
        None => DEFAULT_BUDGET_BYTES,
    }
}

/// The smallest limit of the process' cgroup and those above it. `cgroups` is the text of `/proc/self/cgroup`.
fn limit_bytes(root: &Path, cgroups: &str) -> Option<u64> {
    cgroups
        .lines()
        .filter_map(|line| {
            // HIERARCHY:CONTROLLERS:PATH, of which version 2 has no controllers.
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            if controllers.is_empty() {
                smallest(root, path, "memory.max")
            } else if controllers.split(',').any(|name| name == "memory") {
                smallest(&root.join("memory"), path, "memory.limit_in_bytes")
            } else {
                None
            }
        })
        .min()
}

fn smallest(root: &Path, path: &str, file: &str) -> Option<u64> {
    // In a container the root of the mounted tree usually is the container's own cgroup, whatever the path says.
    let folder = root.join(path.trim_start_matches('/'));
    folder
        .ancestors()
        .take_while(|folder| folder.starts_with(root))
        .filter_map(|folder| std::fs::read_to_string(folder.join(file)).ok())
        .filter_map(|text| text.trim().parse::<u64>().ok())
        .filter(|&limit| limit < UNLIMITED)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(files: &[(&str, &str)], cgroups: &str, expect: Option<u64>) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        assert_eq!(limit_bytes(root.path(), cgroups), expect, "{files:?}");
    }

    #[test]
    fn the_smallest_limit_counts() {
        check(&[("memory.max", "805306368\n")], "0::/\n", Some(805_306_368));
        check(&[("memory.max", "max\n")], "0::/\n", None);
        check(&[], "0::/\n", None);
        let nested = [("a/memory.max", "1000\n"), ("a/b/memory.max", "max\n")];
        check(&nested, "0::/a/b\n", Some(1000));
        // The path of the host, which is not mounted in the container.
        check(&[("memory.max", "500\n")], "0::/kubepods/pod1/c\n", Some(500));
        let v1 = [
            ("memory/memory.limit_in_bytes", "2000\n"),
            ("memory/x/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        check(&v1, "5:cpu,cpuacct:/x\n4:memory:/x\n", Some(2000));
        check(&v1[1..], "4:memory:/x\n", None);
    }
}
