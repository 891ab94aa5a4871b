// Stands in for MLIR's header, whose own includes the wheel lacks. XLA's headers only name the type, in virtual
// signatures that this plugin never calls.
#pragma once

namespace mlir {
class Operation;
class ModuleOp {
  Operation* state_ = nullptr;
};
}  // namespace mlir
