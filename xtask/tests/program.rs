//! The program itself. That this file exists makes `cargo test --workspace` build it, which the tests of the workspace need.

use std::process::Command;

#[test]
fn every_architecture_is_listed() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("list")
        .output()
        .expect("the program starts");
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    for architecture in xtask::registry::ARCHITECTURES {
        assert!(text.contains(architecture.name), "{}", architecture.name);
    }
}
