/* Does a data set fit the network? */
#include "driver/data.h"

static qnet_status check_fit(const qnet_dataset *set, const qnet_type *input, int64_t outputs,
                             const char *name, qnet_diag *d) {
  if (input->dim[1] != set->height || input->dim[2] != set->width || input->dim[3] != set->channels)
    return qnet_error_in(
        d, name, "images are %lldx%lldx%lld (C,H,W), the network takes %lldx%lldx%lld",
        (long long)set->channels, (long long)set->height, (long long)set->width,
        (long long)input->dim[3], (long long)input->dim[1], (long long)input->dim[2]);
  if (outputs == 0 || outputs >= set->classes) return QNET_OK;
  return qnet_error_in(d, name, "%lld classes, but the network has %lld outputs",
                       (long long)set->classes, (long long)outputs);
}

qnet_status qnet_data_load(const qnet_allocator *a, const char *name, qnet_split split,
                           const qnet_type *input, int64_t outputs, qnet_dataset *out,
                           qnet_diag *d) {
  *out = (qnet_dataset){0};
  if (input->dtype != QNET_U8)
    return qnet_error_in(d, name,
                         "the network takes f32 inputs, a data set gives bytes; declare its input "
                         "as u8[...] normalize(...)");
  const qnet_dataset_request request = {.name = name,
                                        .split = split,
                                        .height = input->dim[1],
                                        .width = input->dim[2],
                                        .channels = input->dim[3],
                                        .unlabelled = outputs == 0};
  QNET_TRY(qnet_dataset_load(a, &request, out, d));
  const qnet_status status = check_fit(out, input, outputs, name, d);
  if (status == QNET_OK) return QNET_OK;
  qnet_dataset_free(out);
  *out = (qnet_dataset){0};
  return status;
}
