// The FFI extension and PJRT_ExecuteContext: how custom calls are registered and how they get at their caller's data.
#include "handles.h"
#include "xla/ffi/api/c_api.h"

namespace xla::ffi {
const XLA_FFI_Api* GetXlaFfiApi();  // declared here because its header needs MLIR headers that the wheel lacks
}

namespace so3krates::pjrt_cpu {
namespace {

PJRT_Error* to_error(XLA_FFI_Error* error) {
  if (error == nullptr) return nullptr;
  const XLA_FFI_Api* ffi = xla::ffi::GetXlaFfiApi();
  XLA_FFI_Error_GetMessage_Args text{};
  text.struct_size = XLA_FFI_Error_GetMessage_Args_STRUCT_SIZE;
  text.error = error;
  ffi->XLA_FFI_Error_GetMessage(&text);
  const std::string message = text.message;
  XLA_FFI_Error_Destroy_Args destroy{};
  destroy.struct_size = XLA_FFI_Error_Destroy_Args_STRUCT_SIZE;
  destroy.error = error;
  ffi->XLA_FFI_Error_Destroy(&destroy);
  return pjrt_cpu::to_error(absl::InvalidArgumentError(message));
}

PJRT_Error* register_type(PJRT_FFI_Type_Register_Args* args) {
  XLA_FFI_TypeInfo info{};
  info.struct_size = XLA_FFI_TypeInfo_STRUCT_SIZE;
  info.deleter = args->type_info == nullptr ? nullptr : args->type_info->deleter;
  XLA_FFI_TypeId id{args->type_id};
  XLA_FFI_Type_Register_Args type{};
  type.struct_size = XLA_FFI_Type_Register_Args_STRUCT_SIZE;
  type.name = {args->type_name, args->type_name_size};
  type.type_id = &id;
  type.type_info = &info;
  PJRT_Error* error = to_error(xla::ffi::GetXlaFfiApi()->XLA_FFI_Type_Register(&type));
  args->type_id = id.type_id;
  return error;
}

PJRT_Error* add_user_data(PJRT_FFI_UserData_Add_Args* args) {
  return pjrt_cpu::to_error(args->context->context.ffi_context().Insert(
      xla::ffi::TypeRegistry::TypeId(args->user_data.type_id), args->user_data.data));
}

PJRT_Error* register_handler(PJRT_FFI_Register_Handler_Args* args) {
  XLA_FFI_Handler_Register_Args handler{};
  handler.struct_size = XLA_FFI_Handler_Register_Args_STRUCT_SIZE;
  handler.name = {args->target_name, args->target_name_size};
  handler.platform = {args->platform_name, args->platform_name_size};
  handler.bundle.execute = reinterpret_cast<XLA_FFI_Handler*>(args->handler);
  handler.traits = static_cast<XLA_FFI_Handler_Traits>(args->traits);
  return to_error(xla::ffi::GetXlaFfiApi()->XLA_FFI_Handler_Register(&handler));
}

PJRT_Error* create_context(PJRT_ExecuteContext_Create_Args* args) {
  args->context = new PJRT_ExecuteContext;
  return nullptr;
}

PJRT_Error* destroy_context(PJRT_ExecuteContext_Destroy_Args* args) {
  delete args->context;
  return nullptr;
}

}  // namespace

void add_execute_context(PJRT_Api& api) {
  api.PJRT_ExecuteContext_Create = create_context;
  api.PJRT_ExecuteContext_Destroy = destroy_context;
}

PJRT_FFI_Extension* ffi_extension() {
  static PJRT_FFI_Extension extension = [] {
    PJRT_FFI_Extension e{};
    e.base.struct_size = PJRT_FFI_Extension_STRUCT_SIZE;
    e.base.type = PJRT_Extension_Type_FFI;
    e.type_register = register_type;
    e.user_data_add = add_user_data;
    e.register_handler = register_handler;
    return e;
  }();
  return &extension;
}

}  // namespace so3krates::pjrt_cpu
