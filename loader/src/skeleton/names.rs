//! Names that no policy can have: its source would not be compiled, or its folder not be made.

use tidegate_abi::helper;

use super::Language;

/// C's, up to C23, and what GNU's C adds.
const C: &str = "alignas alignof asm auto bool break case char const constexpr continue default do double else enum extern false \
    float for goto if inline int long nullptr register restrict return short signed sizeof static static_assert struct switch \
    thread_local true typedef typeof typeof_unqual union unsigned void volatile while";

/// Rust's, up to the edition of 2024, and what is kept for later ones.
const RUST: &str = "abstract as async await become box break const continue crate do dyn else enum extern false final fn for gen \
    if impl in let loop macro match mod move mut override priv pub ref return self static struct super trait true try type \
    typeof unsafe unsized use virtual where while yield";

/// What the compilers have called by these names, whatever they are.
const CALLED: &str = "bcmp main memcmp memcpy memmove memset strlen";

/// Functions of the C library that clang knows the types of.
const LIBRARY: &str = include_str!("library.txt");

/// What else is called so in a new policy, or in what it is compiled against.
const fn own(language: Language) -> &'static str {
    match language {
        Language::C => "ports bpf_htonl bpf_htons bpf_ntohl bpf_ntohs",
        Language::Rust => "ports judge tidegate_sdk",
    }
}

/// Names that Windows keeps for devices, in every folder.
const DEVICES: &str = "aux con nul prn com1 com2 com3 com4 com5 com6 com7 com8 com9 lpt1 lpt2 lpt3 lpt4 lpt5 lpt6 lpt7 lpt8 lpt9";

/// Why a policy in `language` can't be called `name`, if so.
pub(super) fn taken(name: &str, language: Language) -> Option<&'static str> {
    let among = |names: &str| names.split_whitespace().any(|one| one == name);
    let is_c = language == Language::C;
    let reasons = [
        (is_c && among(C), "it is a keyword of C"),
        (!is_c && among(RUST), "it is a keyword of Rust"),
        (among(CALLED), "compilers have a function of that name called by themselves"),
        (
            is_c && LIBRARY.lines().skip(1).any(among),
            "it is a function of the C library, whose type compilers know",
        ),
        (
            is_c && helper::HELPERS.iter().any(|helper| helper.name == name),
            "it is a helper that programs call",
        ),
        (among(own(language)), "something else in a new policy is called so"),
        (among(DEVICES), "on Windows it is a device, and no folder can have its name"),
    ];
    reasons.into_iter().find_map(|(is_so, why)| is_so.then_some(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every word of `names`, which are all taken in `language`.
    fn all_taken(names: &str, language: Language) {
        for name in names.split_whitespace() {
            assert!(taken(name, language).is_some(), "{name} in {language:?}");
        }
    }

    #[test]
    fn what_a_compiler_would_not_take_is_taken() {
        // As the standards list them, apart from the lists above.
        let c11 = "auto break case char const continue default do double else enum extern float for goto if inline int long \
            register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while";
        let c23 = "alignas alignof bool constexpr false nullptr static_assert thread_local true typeof typeof_unqual";
        let functions = "main printf memcpy memset memcmp memmove malloc free exit abort strlen strcmp index round log pow";
        for names in [c11, c23, "asm", functions, "ports tidegate_find bpf_map_lookup_elem bpf_ntohs"] {
            all_taken(names, Language::C);
        }
        let strict = "as break const continue crate else enum extern false fn for if impl in let loop match mod move mut pub ref \
            return self static struct super trait true type unsafe use where while async await dyn";
        let reserved =
            "abstract become box do final macro override priv typeof unsized virtual yield try gen";
        for names in [strict, reserved, "main memcpy", "ports judge tidegate_sdk"] {
            all_taken(names, Language::Rust);
        }
        for language in [Language::C, Language::Rust] {
            all_taken("con nul lpt1", language);
        }
    }

    #[test]
    fn every_other_name_is_free() {
        for name in ["my_policy", "guard", "ctx", "port", "stream", "send", "name", "judge", "match", "fn"] {
            assert_eq!(taken(name, Language::C), None, "{name}");
        }
        for name in ["my_policy", "int", "printf", "log", "union", "stream", "core", "tidegate_find", "goto"]
        {
            assert_eq!(taken(name, Language::Rust), None, "{name}");
        }
        assert_eq!(taken("functions", Language::C), None, "a word of what the list says of itself");
    }
}
