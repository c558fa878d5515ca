//! Signatures of bundles: a file beside the bundle, with a hash of it and of every object that it names, signed with ed25519.
//!
//! The file is text that has one form only: what is read must be what would be written, so that no byte of it can be another and
//! mean the same. The signature is over everything above its own line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Write};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ed25519_compact as ed25519;
use sha2::{Digest, Sha256};

use crate::error::{Error, Exit};

/// Who can sign bundles.
pub struct SecretKey(ed25519::KeyPair);

/// Whose signatures can be told from others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(ed25519::PublicKey);

/// What a signature is of.
#[derive(Debug, PartialEq, Eq)]
pub struct Manifest {
    bundle: Hash,
    /// By the names that the bundle gives them.
    objects: BTreeMap<String, Hash>,
}

/// A manifest, and who signed it.
#[derive(Debug)]
pub struct Signature {
    manifest: Manifest,
    key: PublicKey,
    signature: ed25519::Signature,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Hash([u8; 32]);

/// First line of a signature, and of what is signed.
const FORM: &str = "tidegate-bundle 1";
/// What the file of a secret key begins with.
const SECRET: &str = "tidegate-secret-key ";
/// What the text of a public key begins with.
const PUBLIC: &str = "ed25519:";

/// Where the signature of the bundle at `path` is.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".sig");
    name.into()
}

impl Manifest {
    /// Of a bundle and its objects.
    ///
    /// # Errors
    /// An object has a name with a line break in it.
    pub fn new<'o>(
        bundle: &[u8],
        objects: impl IntoIterator<Item = (&'o str, &'o [u8])>,
    ) -> Result<Self, Error> {
        let mut hashes = BTreeMap::new();
        for (name, bytes) in objects {
            if name.contains(char::is_control) {
                let message = format!("the name of the object {name:?} can't be in a signature");
                return Err(Error::usage("bundle-name", message));
            }
            hashes.insert(name.to_string(), Hash::of(bytes));
        }
        Ok(Self { bundle: Hash::of(bundle), objects: hashes })
    }

    /// Holds a bundle's text against it.
    ///
    /// # Errors
    /// It is not what was signed.
    pub fn check_bundle(&self, path: &Path, text: &[u8]) -> Result<(), Error> {
        if Hash::of(text) == self.bundle { Ok(()) } else { Err(changed(path)) }
    }

    /// Holds an object, which is in the file at `path`, against it.
    ///
    /// # Errors
    /// It is not what was signed.
    pub fn check_object(&self, name: &str, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        if self.objects.get(name) == Some(&Hash::of(bytes)) { Ok(()) } else { Err(changed(path)) }
    }

    /// Names and hashes of the objects.
    pub fn objects(&self) -> impl Iterator<Item = (&str, String)> {
        self.objects.iter().map(|(name, hash)| (name.as_str(), hash.to_string()))
    }

    /// What is signed.
    fn text(&self, key: PublicKey) -> String {
        let mut text = format!("{FORM}\nkey {key}\nbundle {}\n", self.bundle);
        for (name, hash) in &self.objects {
            // Writing to a string does not fail.
            let _ = writeln!(text, "object {hash} {name}");
        }
        text
    }
}

fn changed(path: &Path) -> Error {
    denied("bundle-changed", format!("{} is not what was signed", path.display()))
        .with_help("somebody changed it since; `tidegate bundle sign` is for who answers for the change")
}

pub(super) fn denied(code: &'static str, message: String) -> Error {
    Error::new(code, Exit::Denied, message)
}

impl Signature {
    /// Signs.
    pub fn new(manifest: Manifest, key: &SecretKey) -> Self {
        let signature = key.0.sk.sign(manifest.text(key.public()), None);
        Self { key: key.public(), manifest, signature }
    }

    /// Reads what is in the file at `path`. Whose it is, [`verify`](Self::verify) says.
    ///
    /// # Errors
    /// It is no signature.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let parsed = std::str::from_utf8(bytes).ok().and_then(Self::taken_apart);
        // One form only.
        parsed.filter(|signature| signature.to_string().as_bytes() == bytes).ok_or_else(|| {
            denied(
                "bundle-signature",
                format!("{} is not a signature as `bundle sign` writes it", path.display()),
            )
        })
    }

    fn taken_apart(text: &str) -> Option<Self> {
        let mut lines = text.strip_prefix(FORM)?.strip_prefix('\n')?.lines();
        let key = lines.next()?.strip_prefix("key ")?.parse().ok()?;
        let bundle = Hash::read(lines.next()?.strip_prefix("bundle ")?)?;
        let mut objects = BTreeMap::new();
        let signature = loop {
            let line = lines.next()?;
            if let Some(signature) = line.strip_prefix("signature ") {
                break ed25519::Signature::new(unhex(signature)?);
            }
            let (hash, name) = line.strip_prefix("object ")?.split_once(' ')?;
            objects.insert(name.into(), Hash::read(hash)?);
        };
        Some(Self { key, manifest: Manifest { bundle, objects }, signature })
    }

    /// Who is said to have signed.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// What was signed, when it was its key that signed.
    ///
    /// # Errors
    /// It was not; `path` is where the signature is.
    pub fn verify(self, path: &Path) -> Result<Manifest, Error> {
        let text = self.manifest.text(self.key);
        match self.key.0.verify(text, &self.signature) {
            Ok(()) => Ok(self.manifest),
            Err(_) => {
                let message = format!("{}: the signature is not of the key {}", path.display(), self.key);
                Err(denied("bundle-signature", message))
            }
        }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}signature {}", self.manifest.text(self.key), hex(&self.signature[..]))
    }
}

impl SecretKey {
    /// A new one.
    pub fn generate() -> Self {
        Self(ed25519::KeyPair::generate())
    }

    /// The one in the file at `path`.
    ///
    /// # Errors
    /// The file can't be read, or has no key.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|error| Error::file("read", path, &error))?;
        let seed = text.strip_prefix(SECRET).and_then(|seed| unhex(seed.trim_end()));
        let pair = seed.and_then(|seed| ed25519::KeyPair::try_from_seed(ed25519::Seed::new(seed)).ok());
        pair.map(Self).ok_or_else(|| {
            Error::usage("key-malformed", format!("{} has no secret key", path.display()))
                .with_help("`tidegate bundle keygen` makes one")
        })
    }

    /// Writes it to a new file that its owner alone may read, where the system knows such files.
    ///
    /// # Errors
    /// There is one already, or it can't be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::usage("key-exists", format!("{} is there already", path.display()))
                    .with_help("a key that is written over is lost: choose another name")
            }
            _ => Error::file("write", path, &error),
        })?;
        let text = format!("{SECRET}{}\n", hex(&self.0.sk.seed()[..]));
        io::Write::write_all(&mut file, text.as_bytes()).map_err(|error| Error::file("write", path, &error))
    }

    /// What others know it by.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.pk)
    }
}

impl std::str::FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = text.strip_prefix(PUBLIC).and_then(unhex).map(ed25519::PublicKey::new);
        // One of small order would take anybody's signature.
        key.filter(|key| key.validate().is_ok())
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no public key: they are {PUBLIC} and 64 hexadecimal digits"))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", hex(&self.0[..]))
    }
}

impl Hash {
    fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    fn read(text: &str) -> Option<Self> {
        text.strip_prefix("sha256:").and_then(unhex).map(Self)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// So many bytes, each of two lower-case digits.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let value = char::from(*digit).to_digit(16).filter(|_| !digit.is_ascii_uppercase())?;
            *byte = *byte << 4 | value as u8;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey(ed25519::KeyPair::from_seed(ed25519::Seed::new([seed; 32])))
    }

    fn signed() -> (Signature, String) {
        let objects: [(&str, &[u8]); 2] = [("b.o", b"second"), ("a/b c.o", b"first")];
        let signature = Signature::new(Manifest::new(b"bundle", objects).expect("good names"), &key(1));
        let text = signature.to_string();
        (signature, text)
    }

    fn read(bytes: &[u8]) -> Result<Manifest, &'static str> {
        let path = Path::new("x.sig");
        Signature::parse(path, bytes).and_then(|signature| signature.verify(path)).map_err(|error| error.code)
    }

    #[test]
    fn what_is_signed_is_read_again() {
        let (signature, text) = signed();
        let parsed = Signature::parse("x.sig".as_ref(), text.as_bytes()).expect("a signature");
        assert_eq!(parsed.key(), key(1).public());
        let manifest = parsed.verify("x.sig".as_ref()).expect("its own");
        assert_eq!(manifest, signature.manifest);
        manifest.check_bundle("x".as_ref(), b"bundle").expect("unchanged");
        manifest.check_object("b.o", "b.o".as_ref(), b"second").expect("unchanged");
        for (name, bytes) in [("b.o", &b"first"[..]), ("c.o", b"second")] {
            assert_eq!(
                manifest.check_object(name, "b.o".as_ref(), bytes).expect_err("other").code,
                "bundle-changed"
            );
        }
    }

    #[test]
    fn a_signature_is_of_its_key_alone() {
        let (signature, text) = signed();
        let other = text.replace(&signature.key.to_string(), &key(2).public().to_string());
        assert_eq!(read(other.as_bytes()), Err("bundle-signature"));
        let resigned = Signature::new(read(text.as_bytes()).expect("its own"), &key(2)).to_string();
        assert_ne!(text, resigned);
    }

    #[test]
    fn a_name_that_would_be_two_lines_is_not_signed() {
        let objects: [(&str, &[u8]); 1] = [("a\nb", b"")];
        assert_eq!(Manifest::new(b"", objects).expect_err("a line break").code, "bundle-name");
    }

    #[test]
    fn a_key_is_read_from_the_file_that_it_was_written_to_and_never_written_over() {
        let path = std::env::temp_dir().join(format!("tidegate-key-{}", std::process::id()));
        let secret = SecretKey::generate();
        secret.write(&path).expect("a file");
        assert_eq!(key(3).write(&path).expect_err("it is there").code, "key-exists");
        let read = SecretKey::read(&path).expect("a key");
        assert_eq!(read.public(), secret.public());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        }
        fs::write(&path, "tidegate-secret-key 00").expect("a file");
        assert_eq!(SecretKey::read(&path).err().map(|error| error.code), Some("key-malformed"));
        fs::remove_file(&path).expect("it is there");
    }

    #[test]
    fn a_public_key_that_takes_anybodys_signature_is_none() {
        for text in [
            format!("ed25519:01{}", "00".repeat(31)),
            format!("ed25519:{}", "00".repeat(32)),
            key(1).public().to_string().to_uppercase(),
            "ed25519:00".into(),
        ] {
            assert!(text.parse::<PublicKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn any_byte_of_a_signature_that_is_another_is_refused() {
        let (_, text) = signed();
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                assert_eq!(read(&bytes), Err("bundle-signature"), "byte {at}, bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_signature_cut_or_lengthened_anywhere_is_refused(cut in 0..400_usize, more in "[ -~\n]{1,20}") {
            let (_, text) = signed();
            let cut = cut.min(text.len() - 1);
            prop_assert_eq!(read(&text.as_bytes()[..cut]), Err("bundle-signature"));
            let longer = format!("{}{more}{}", &text[..cut], &text[cut..]);
            prop_assert!(longer == text || read(longer.as_bytes()).is_err());
            let longer = text + &more;
            prop_assert!(read(longer.as_bytes()).is_err());
        }

        #[test]
        fn any_bytes_are_a_signature_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read(&bytes).is_err());
        }
    }
}
