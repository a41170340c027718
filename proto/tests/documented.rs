//! The schema is the contract's manual: every message, field, enum and call in it says what it means.

use std::collections::HashMap;

use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// Field numbers in descriptor.proto, of which the paths of `SourceCodeInfo` are made.
const FILE_MESSAGE: i32 = 4;
const FILE_ENUM: i32 = 5;
const FILE_SERVICE: i32 = 6;
const MESSAGE_FIELD: i32 = 2;
const MESSAGE_NESTED: i32 = 3;
const MESSAGE_ENUM: i32 = 4;
const SERVICE_METHOD: i32 = 2;

/// Comments of one file by path, and the names that have none.
struct Audit {
    comments: HashMap<Vec<i32>, String>,
    seen: usize,
    silent: Vec<String>,
}

impl Audit {
    fn check(&mut self, path: &[i32], name: &str) {
        self.seen += 1;
        let comment = self.comments.get(path).map_or("", |comment| comment.trim());
        // Shorter than "Which peer." is no sentence.
        if comment.len() < 8 {
            self.silent.push(name.to_owned());
        }
    }

    fn message(&mut self, path: &[i32], parent: &str, message: &DescriptorProto) {
        let is_map_entry = message.options.as_ref().is_some_and(|options| options.map_entry());
        if is_map_entry {
            return;
        }
        let name = format!("{parent}.{}", message.name());
        self.check(path, &name);
        for (index, field) in (0..).zip(&message.field) {
            let path = [path, &[MESSAGE_FIELD, index]].concat();
            self.check(&path, &format!("{name}.{}", field.name()));
        }
        for (index, nested) in (0..).zip(&message.nested_type) {
            self.message(&[path, &[MESSAGE_NESTED, index]].concat(), &name, nested);
        }
        for (index, nested) in (0..).zip(&message.enum_type) {
            self.enumeration(&[path, &[MESSAGE_ENUM, index]].concat(), &name, nested);
        }
    }

    fn enumeration(&mut self, path: &[i32], parent: &str, enumeration: &EnumDescriptorProto) {
        self.check(path, &format!("{parent}.{}", enumeration.name()));
    }

    fn file(&mut self, file: &FileDescriptorProto) {
        let package = file.package();
        for (index, message) in (0..).zip(&file.message_type) {
            self.message(&[FILE_MESSAGE, index], package, message);
        }
        for (index, enumeration) in (0..).zip(&file.enum_type) {
            self.enumeration(&[FILE_ENUM, index], package, enumeration);
        }
        for (index, service) in (0..).zip(&file.service) {
            let path = [FILE_SERVICE, index];
            let name = format!("{package}.{}", service.name());
            self.check(&path, &name);
            for (index, method) in (0..).zip(&service.method) {
                let path = [&path[..], &[SERVICE_METHOD, index]].concat();
                self.check(&path, &format!("{name}.{}", method.name()));
            }
        }
    }
}

#[test]
fn everything_in_the_schema_has_a_comment() {
    let descriptors = FileDescriptorSet::decode(chappe_proto::DESCRIPTORS).expect("descriptors");
    let (mut seen, mut silent) = (0, Vec::new());
    for file in descriptors.file.iter().filter(|file| file.package().starts_with("chappe.")) {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let comments = locations.map(|location| {
            let text = location.leading_comments.as_ref().or(location.trailing_comments.as_ref());
            (location.path.clone(), text.cloned().unwrap_or_default())
        });
        let mut audit = Audit { comments: comments.collect(), seen: 0, silent: Vec::new() };
        audit.file(file);
        seen += audit.seen;
        silent.append(&mut audit.silent);
    }
    assert!(seen > 400, "only {seen} names: is the schema read at all?");
    assert!(silent.is_empty(), "without a comment:\n{}", silent.join("\n"));
}
