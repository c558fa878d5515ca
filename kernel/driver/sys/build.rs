//! How the driver is linked.

#[cfg(feature = "wdk")]
fn main() -> Result<(), wdk_build::ConfigError> {
    // The name by which a debugger looks for symbols, without a folder of the machine that linked it.
    println!("cargo::rustc-cdylib-link-arg=/PDBALTPATH:tidegate.pdb");
    wdk_build::configure_wdk_binary_build()
}

#[cfg(not(feature = "wdk"))]
fn main() {}
