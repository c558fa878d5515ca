//! ELF objects: whatever the bytes are, they become programs or an error that says what is wrong.

use tidegate::Object;
use tidegate_verifier::{Options, Program, verify};

/// Runs one input: see the head of the module.
pub fn run(data: &[u8]) {
    let object = match Object::parse(data) {
        Ok(object) => object,
        Err(error) => {
            assert!(!error.to_string().is_empty(), "an error says what is wrong");
            return;
        }
    };
    assert!(!object.programs().is_empty(), "an object has a program");
    for program in object.programs() {
        let maps = object.map_defs(program);
        assert_eq!(maps.len(), program.maps.len(), "every map that a program names has its definition");
        assert_eq!(program.functions.first().map(|function| function.slot), Some(0), "the entry comes first");
        for slot in 0..program.insns.len() {
            let (_, _) = (program.function(slot), program.line(slot));
        }
        let code = program.code();
        let options = Options { steps: 20_000, ..Options::default() };
        let _ = verify(&Program { program_type: program.program_type, code: &code, maps: &maps }, &options);
    }
    for map in object.maps() {
        if let Some(initial) = &map.initial {
            assert_eq!(initial.len(), map.def.value_size as usize, "global data fills its map's value");
        }
    }
}
