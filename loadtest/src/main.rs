//! The binary `chappe-loadtest`.

fn main() -> std::process::ExitCode {
    chappe_loadtest::main()
}
