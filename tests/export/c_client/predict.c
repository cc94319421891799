/* Answers from an exported SavedModel through TensorFlow's C API: no Python, no Keras, no aillm_tf.
 *
 *   predict EXPORT INPUT LABEL PROBABILITIES LIBRARY... -- TEXT...
 *
 * INPUT, LABEL and PROBABILITIES are tensors of the signature serving_default ("StatefulPartitionedCall_1:0");
 * LIBRARY are tensorflow-text's .so files, which a stock TensorFlow Serving has linked in. Prints one JSON object a
 * text: {"label": "positive", "probabilities": [0.25, 0.75]}.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

static void check(const TF_Status* status, const char* doing) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s: %s\n", doing, TF_Message(status));
  exit(1);
}

/* Finds "operation:index" in the graph. */
static TF_Output find(TF_Graph* graph, const char* tensor) {
  char name[512];
  const char* colon = strrchr(tensor, ':');
  size_t length = colon ? (size_t)(colon - tensor) : strlen(tensor);
  if (length >= sizeof name) {
    fprintf(stderr, "tensor name too long: %s\n", tensor);
    exit(1);
  }
  memcpy(name, tensor, length);
  name[length] = 0;
  TF_Output output = {TF_GraphOperationByName(graph, name), colon ? atoi(colon + 1) : 0};
  if (!output.oper) {
    fprintf(stderr, "the graph has no operation %s\n", name);
    exit(1);
  }
  return output;
}

static TF_Tensor* strings(char** texts, int rows) {
  const int64_t shape[] = {rows};
  TF_Tensor* tensor = TF_AllocateTensor(TF_STRING, shape, 1, rows * sizeof(TF_TString));
  TF_TString* data = TF_TensorData(tensor);
  for (int row = 0; row < rows; row++) {
    TF_StringInit(&data[row]);
    TF_StringCopy(&data[row], texts[row], strlen(texts[row]));
  }
  return tensor;
}

int main(int argc, char** argv) {
  int first = 5;
  while (first < argc && strcmp(argv[first], "--")) first++;
  if (first + 1 >= argc) {
    fprintf(stderr, "predict EXPORT INPUT LABEL PROBABILITIES LIBRARY... -- TEXT...\n");
    return 2;
  }
  char** texts = argv + first + 1;
  const int rows = argc - first - 1;

  TF_Status* status = TF_NewStatus();
  for (int i = 5; i < first; i++) {
    TF_LoadLibrary(argv[i], status);
    check(status, argv[i]);
  }
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tags[] = {"serve"};
  TF_Session* session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status, argv[1]);

  TF_Output input = find(graph, argv[2]);
  TF_Output outputs[] = {find(graph, argv[3]), find(graph, argv[4])};
  TF_Tensor* given = strings(texts, rows);
  TF_Tensor* got[2];
  TF_SessionRun(session, NULL, &input, &given, 1, outputs, got, 2, NULL, 0, NULL, status);
  check(status, "run");

  const TF_TString* labels = TF_TensorData(got[0]);
  const float* probabilities = TF_TensorData(got[1]);
  const int classes = (int)TF_Dim(got[1], 1);
  for (int row = 0; row < rows; row++) {
    printf("{\"label\": \"%.*s\", \"probabilities\": [", (int)TF_StringGetSize(&labels[row]),
           TF_StringGetDataPointer(&labels[row]));
    for (int i = 0; i < classes; i++) printf("%s%.9g", i ? ", " : "", probabilities[row * classes + i]);
    printf("]}\n");
  }
  TF_DeleteTensor(given);
  TF_DeleteTensor(got[0]);
  TF_DeleteTensor(got[1]);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
