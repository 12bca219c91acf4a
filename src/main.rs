//! The `metrics-proxy` program.

fn main() -> std::process::ExitCode {
    metrics_proxy::cli::run(std::env::args_os())
}
