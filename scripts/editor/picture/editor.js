// The editor of the picture: Monaco, with the language server for YAML in a worker.
import * as monaco from "monaco-editor";
import { configureMonacoYaml } from "monaco-yaml";
import schema from "schema";

window.MonacoEnvironment = {
  getWorker: (_, label) => new Worker(label === "yaml" ? "yaml.worker.js" : "editor.worker.js"),
};
configureMonacoYaml(monaco, {
  enableSchemaRequest: false,
  schemas: [{ uri: "https://millrace.example/pipeline.schema.json", fileMatch: ["**/pipeline.yaml"], schema }],
});

const text = `millrace: v1alpha1
pipeline: temperature-alerts
version: 0.1.0
sources: [machine]

steps:
  celsius:
    map: fahrenheit-to-celsius
    from: machine
    instances: many
  too-hot:
    filter: above-limit
    form: celsius
    config: { limit: 85 }

sinks:
  alerts: { from: too-hot }

binding:
  sources:
    machine:
      mqtt:
        url: mqtt://localhost:1883
        topic: plant/+/temperature
        
`;
const model = monaco.editor.createModel(text, "yaml", monaco.Uri.parse("file:///pipeline.yaml"));
window.editor = monaco.editor.create(document.getElementById("editor"), {
  model,
  theme: "vs",
  fontSize: 14,
  minimap: { enabled: false },
  scrollBeyondLastLine: false,
  automaticLayout: true,
  quickSuggestions: false,
  suggest: { showStatusBar: false, preview: false },
});
window.mistakes = () => monaco.editor.getModelMarkers({ resource: model.uri }).length;
