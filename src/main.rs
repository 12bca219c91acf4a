//! The `metrics-proxy` program.

/// The release is static with musl, whose own allocator takes one lock for all threads: merging on several it spends its
/// time waiting (docs/reference/rock.md has the figures). Elsewhere the system's is used.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    metrics_proxy::cli::run(std::env::args_os())
}
