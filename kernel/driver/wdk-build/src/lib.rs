//! Stands in for Microsoft's `wdk-build` on a machine without the WDK: as much of its surface as `wdk-sys` and a WDM driver's
//! build script call. Headers are those of mingw-w64's DDK, import libraries those of the folder in `TIDEGATE_IMPORTS`.
//!
//! `cargo xtask driver` puts it in the place of the published crate by a `patch` on its command line, so that nothing of it
//! is ever seen on Windows.

use std::borrow::Borrow;
use std::path::PathBuf;
use std::{env, fmt, io};

use bindgen::Builder;

/// Where Debian's mingw-w64 keeps its headers.
const HEADERS: &str = "/usr/share/mingw-w64/include";
/// Where the clang whose library bindgen loads keeps the headers that are the compiler's own.
const COMPILER: &str = "/usr/lib/llvm-19/lib/clang/19";

/// Functions that are inline in mingw-w64's headers and imports in the WDK's: `fwps-sys` declares those that are needed.
const INLINE: [&str; 4] = ["KeGetCurrentIrql", "KfRaiseIrql", "KeLowerIrql", "KeRaiseIrqlToDpcLevel"];

/// An I/O error, and the file that it is about.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct IoError {
    path: PathBuf,
    source: io::Error,
}

impl IoError {
    /// The error with the path that it is about.
    pub fn with_path(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self { path: path.into(), source }
    }

    /// The error with the second of the two paths that it is about.
    pub fn with_src_dest_paths(_: impl Into<PathBuf>, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::with_path(path, source)
    }
}

/// Why a build can't be configured.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The variable that names the import libraries.
    #[error("TIDEGATE_IMPORTS names no folder: this crate is for `cargo xtask driver`")]
    Imports,
}

/// A part of the WDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ApiSubset {
    Base,
    Wdf,
    Gpio,
    Hid,
    ParallelPorts,
    Spb,
    Storage,
    Usb,
}

/// Versions of the kernel-mode framework. There is none here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub struct KmdfConfig {
    pub kmdf_version_major: u8,
    pub target_kmdf_version_minor: u8,
    pub minimum_kmdf_version_minor: Option<u8>,
}

/// Versions of the user-mode framework. There is none here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub struct UmdfConfig {
    pub umdf_version_major: u8,
    pub target_umdf_version_minor: u8,
    pub minimum_umdf_version_minor: Option<u8>,
}

/// The driver's model: always WDM here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum DriverConfig {
    Wdm,
    Kmdf(KmdfConfig),
    Umdf(UmdfConfig),
}

/// The processor that is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum CpuArchitecture {
    Amd64,
    Arm64,
}

/// How a driver is built.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Config {
    pub driver_config: DriverConfig,
    pub cpu_architecture: CpuArchitecture,
}

impl Config {
    fn new() -> Self {
        let arm = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "aarch64");
        let cpu_architecture = if arm { CpuArchitecture::Arm64 } else { CpuArchitecture::Amd64 };
        Self { driver_config: DriverConfig::Wdm, cpu_architecture }
    }

    /// The only configuration that there is.
    pub fn from_env_auto() -> Result<Self, ConfigError> {
        Ok(Self::new())
    }

    /// The headers of a part of the WDK.
    pub fn headers(&self, subset: ApiSubset) -> Result<impl Iterator<Item = String> + use<>, ConfigError> {
        let headers: &[&str] = if subset == ApiSubset::Base { &["ntifs.h", "ntddk.h"] } else { &[] };
        Ok(headers.iter().map(ToString::to_string))
    }

    /// A header that includes those of `subsets`.
    pub fn bindgen_header_contents(
        &self,
        subsets: impl IntoIterator<Item = ApiSubset>,
    ) -> Result<String, ConfigError> {
        // wdk-sys names this type, which mingw-w64's headers lack.
        let mut text = String::from("typedef unsigned long long POOL_FLAGS;\n");
        text.extend(INLINE.iter().map(|name| format!("#define {name} {name}_inline_of_mingw\n")));
        for subset in subsets {
            text.extend(self.headers(subset)?.map(|header| format!("#include \"{header}\"\n")));
        }
        Ok(text)
    }

    /// The import libraries of a part of the WDK, as bindgen puts them into its output.
    pub fn bindgen_library_link_raw_lines(&self, subset: ApiSubset) -> Option<String> {
        (subset == ApiSubset::Base).then(|| "#[link(name = \"ntoskrnl\")]\nunsafe extern \"C\" {}\n".to_owned())
    }

    /// There is no framework.
    pub fn compute_wdffunctions_symbol_name(&self) -> Option<String> {
        None
    }

    /// Folders of headers.
    pub fn include_paths(&self) -> Result<impl Iterator<Item = PathBuf> + use<>, ConfigError> {
        Ok([PathBuf::from(HEADERS).join("ddk"), HEADERS.into()].into_iter())
    }

    /// Folders of import libraries.
    pub fn library_paths(&self) -> Result<impl Iterator<Item = PathBuf> + use<>, ConfigError> {
        println!("cargo::rerun-if-env-changed=TIDEGATE_IMPORTS");
        let imports = env::var_os("TIDEGATE_IMPORTS").ok_or(ConfigError::Imports)?;
        Ok([PathBuf::from(imports)].into_iter())
    }

    /// Macros that every header is read with: Windows 10, kernel mode.
    pub fn preprocessor_definitions(&self) -> impl Iterator<Item = (String, Option<String>)> + use<> {
        // Headers of 64-bit Windows are x64's here: mingw-w64 has no others, and what is declared is the same.
        let both = [("_WIN64", None), ("_KERNEL_MODE", None), ("_AMD64_", None), ("AMD64", None)];
        let version = [("_WIN32_WINNT", Some("0x0A00")), ("NTDDI_VERSION", Some("0x0A000000"))];
        both.into_iter()
            .chain(version)
            .map(|(name, value): (&str, Option<&str>)| (name.to_owned(), value.map(str::to_owned)))
    }

    /// Options of clang.
    pub fn wdk_bindgen_compiler_flags() -> impl Iterator<Item = String> {
        ["-fms-extensions".to_owned()].into_iter()
    }

    /// What a library on the WDK is compiled with.
    pub fn configure_library_build(&self) -> Result<(), ConfigError> {
        println!("cargo::rustc-check-cfg=cfg(driver_model__driver_type, values(\"WDM\", \"KMDF\", \"UMDF\"))");
        for version in ["kmdf", "umdf"] {
            for part in ["_version_major", "target_{}_version_minor", "minimum_{}_version_minor"] {
                let name = if part.starts_with('_') { format!("{version}{part}") } else { part.replace("{}", version) };
                println!("cargo::rustc-check-cfg=cfg(driver_model__{name}, values(any()))");
            }
        }
        println!("cargo::rustc-cfg=driver_model__driver_type=\"WDM\"");
        Ok(())
    }

    /// What a driver is linked with: the options of the published crate, as far as lld knows them.
    pub fn configure_binary_build(&self) -> Result<(), ConfigError> {
        for path in self.library_paths()? {
            println!("cargo::rustc-link-search={}", path.display());
        }
        for option in [
            "/DRIVER",
            "/NODEFAULTLIB",
            "/SUBSYSTEM:NATIVE",
            "/ENTRY:DriverEntry",
            "/NXCOMPAT",
            "/DYNAMICBASE",
            "/OPT:REF,ICF",
            "/INTEGRITYCHECK",
            "/MANIFEST:NO",
        ] {
            println!("cargo::rustc-cdylib-link-arg={option}");
        }
        self.configure_library_build()
    }
}

/// bindgen, configured for the WDK.
pub trait BuilderExt {
    /// A builder for `config`.
    fn wdk_default(config: impl Borrow<Config> + fmt::Debug) -> Result<Builder, ConfigError>;
}

impl BuilderExt for Builder {
    fn wdk_default(config: impl Borrow<Config> + fmt::Debug) -> Result<Builder, ConfigError> {
        let config = config.borrow();
        let includes = config.include_paths()?.map(|path| format!("-isystem{}", path.display()));
        let macros = config.preprocessor_definitions().map(|(name, value)| match value {
            Some(value) => format!("-D{name}={value}"),
            None => format!("-D{name}"),
        });
        Ok(Self::default()
            .use_core()
            .derive_default(true)
            .generate_cstr(true)
            .detect_include_paths(false)
            .clang_args(["--target=x86_64-w64-mingw32", "-fno-builtin", "-resource-dir", COMPILER])
            .clang_args(includes)
            .clang_args(macros)
            .clang_args(Config::wdk_bindgen_compiler_flags())
            // bindgen can't lay these out, and a driver has no use for them.
            .opaque_type("_SLIST_HEADER|__tile1024i.*|_tile1024i|_XSAVE_AREA.*|_XSTATE.*")
            .blocklist_item("__tile1024i.*")
            // As the published crate does: deprecated.
            .blocklist_item("ExAllocatePool(WithTag|WithQuotaTag|WithTagPriority)?")
            .must_use_type("NTSTATUS")
            .default_enum_style(bindgen::EnumVariation::ModuleConsts)
            .formatter(bindgen::Formatter::Prettyplease)
            .rust_target(bindgen::RustTarget::stable(91, 0).unwrap_or_default())
            .rust_edition(bindgen::RustEdition::Edition2024))
    }
}

/// Configures a library on the WDK.
pub fn configure_wdk_library_build() -> Result<(), ConfigError> {
    Config::new().configure_library_build()
}

/// Configures a library on the WDK, then does more with the configuration.
pub fn configure_wdk_library_build_and_then<F, E>(mut more: F) -> Result<(), E>
where
    F: FnMut(Config) -> Result<(), E>,
    E: From<ConfigError>,
{
    let config = Config::new();
    config.configure_library_build()?;
    more(config)
}

/// Configures a driver.
pub fn configure_wdk_binary_build() -> Result<(), ConfigError> {
    Config::new().configure_binary_build()
}
