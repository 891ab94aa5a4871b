// PJRT_Error and PJRT_Event.
#include "handles.h"

namespace so3krates::pjrt_cpu {
namespace {

void error_destroy(PJRT_Error_Destroy_Args* args) {
  delete args->error;
}

void error_message(PJRT_Error_Message_Args* args) {
  const absl::string_view message = args->error->status.message();
  args->message = message.data();
  args->message_size = message.size();
}

PJRT_Error* event_destroy(PJRT_Event_Destroy_Args* args) {
  delete args->event;
  return nullptr;
}

PJRT_Error* event_await(PJRT_Event_Await_Args* args) {
  return to_error(args->event->future.Await());
}

}  // namespace

void add_errors_and_events(PJRT_Api& api) {
  api.PJRT_Error_Destroy = error_destroy;
  api.PJRT_Error_Message = error_message;
  api.PJRT_Event_Destroy = event_destroy;
  api.PJRT_Event_Await = event_await;
}

}  // namespace so3krates::pjrt_cpu
